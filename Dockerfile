# streamkit with the example in apps/. For an app of your own, copy its package in place of apps/: what lies in /app is
# imported. Any arguments are those of `streamkit`: docker run IMAGE worker apps.flights:app --brokers host:9092

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY streamkit streamkit
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir /wheels/*.whl

FROM python:3.11.14-slim-bookworm
# A number, so that Kubernetes' runAsNonRoot can see that it is not root.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin streamkit
COPY --from=build /opt/venv /opt/venv
COPY deploy/healthcheck.py /opt/healthcheck.py
WORKDIR /app
COPY apps apps
# Never PYTHONOPTIMIZE: streamkit refuses to run without assert statements, by which the Kafka client reports its fatal
# states. The default address of STREAMKIT_HTTP is not to be reached from outside of the container.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    STREAMKIT_HTTP=0.0.0.0:9464 \
    STREAMKIT_LOG_FORMAT=json
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 CMD ["python", "/opt/healthcheck.py"]
# The exec form, so that streamkit is the process that gets SIGTERM, drains and commits; a shell would not pass it on.
ENTRYPOINT ["streamkit"]
CMD ["worker", "apps.flights:app"]
