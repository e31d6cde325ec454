"""Meanings that a test can foresee: one number per subject."""

SUBJECTS = ("cat", "stock", "rain")


def embed(texts: list[str]) -> list[list[float]]:
    """Count each subject's mentions; text about none of them lies apart."""
    if any("fail" in text for text in texts):
        raise RuntimeError("password=hunter2")
    if any("short" in text for text in texts):
        return [[1.0] for _ in texts]
    return [[float(text.count(word)) for word in SUBJECTS] + [0.01] for text in texts]


async def embed_later(texts: list[str]) -> list[list[float]]:
    """The same, for code that awaits."""
    return embed(texts)


not_callable = 7
