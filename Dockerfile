# One image for the API, the worker and the migration; the command decides.
#   docker build --build-arg PROJECT=examples/chat -t greenroom .
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    GREENROOM_CONFIG=/project/langgraph.json

WORKDIR /src
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY app app
COPY workers workers
COPY alembic alembic
RUN pip install . && rm -rf /src/*

ARG PROJECT=examples/chat
COPY ${PROJECT} /project
WORKDIR /project
RUN if [ -f requirements.txt ]; then pip install -r requirements.txt; \
    elif [ -f pyproject.toml ] || [ -f setup.py ]; then pip install -e .; fi

RUN useradd --system --uid 10001 --home-dir /project greenroom
USER greenroom

EXPOSE 8000
CMD ["greenroom", "web"]
