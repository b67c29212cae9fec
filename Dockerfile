# The service as an image: docker build -t class-prediction . && docker run --rm -p 1313:1313 class-prediction
# Two stages: what installs packages (pip, its cache) stays behind in the first.

FROM python:3.11-slim-bookworm AS packages
# Only the pins come in here: a change of the code leaves this layer, by far the largest and slowest, as it is.
COPY requirements/serve.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install --quiet --disable-pip-version-check -r /tmp/requirements.txt \
 # What serving never imports: the packages' own tests, Ray's Java side and its reinforcement learning.
 && find /opt/venv/lib -type d -name tests -prune -exec rm -rf {} + \
 && rm -rf /opt/venv/lib/python3.11/site-packages/ray/jars /opt/venv/lib/python3.11/site-packages/ray/rllib

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="class-prediction" \
      org.opencontainers.image.description="Scores tabular rows with a fitted classifier, on Ray Serve" \
      org.opencontainers.image.version="0.1.0"
COPY --from=packages /opt/venv /opt/venv

WORKDIR /app
COPY config config
COPY model_components model_components
COPY serve_app serve_app
# The user cannot write here, so what Python compiles is put beside the code now. The volumes of a cluster take their owner
# from the two folders: the token that its nodes know each other by, and the dashboards that Ray writes for Grafana.
RUN python -m compileall -q serve_app \
 && install -d -o 10001 -g 10001 -m 700 /var/lib/ray-token \
 && install -d -o 10001 -g 10001 -m 755 /var/lib/ray-dashboards

# Ray writes below /tmp only: with a tmpfs there, the root file system can be read-only.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    SERVE_APP_HOST=0.0.0.0
USER 10001:10001
EXPOSE 1313
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-m", "serve_app", "ready"]
ENTRYPOINT ["python", "-m", "serve_app"]
# What is in flight, and Ray, have to end within the ten seconds of docker stop.
CMD ["run", "--drain-timeout", "5"]
