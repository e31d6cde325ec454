"""The owner's own routes (`http.app`) as the web process sees them: asked for, passed on."""
