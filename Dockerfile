# Two images of the same source:
#   node     the doors (scp, intake, dispatch, send), `sentinode db upgrade`; without torch
#   worker   the workshop: everything, with torch
#
#   docker build --target node   -t sentinode-node .
#   docker build --target worker -t sentinode-worker .

# The version that constraints.txt was checked with.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    SENTINODE_STORAGE__DATA=/var/lib/sentinode
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/sentinode \
        --shell /usr/sbin/nologin sentinode \
    && install -d -o sentinode -g sentinode -m 0750 /var/lib/sentinode \
    && install -d /etc/sentinode
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./


FROM base AS node
# Further packages, for example "s3fs>=2024.10" for a store on S3.
ARG EXTRA_PACKAGES=""
COPY deploy/node-requirements.txt deploy/
RUN pip install -c constraints.txt -r deploy/node-requirements.txt ${EXTRA_PACKAGES}
COPY alembic alembic
COPY core core
COPY node node
COPY cli cli
# The node reads the models' specifications only; `sentinode check` looks whether weights are there.
COPY models/zoo models/zoo
# The project is one distribution whose dependencies include torch: --no-deps leaves it out.
# Editable, because the migrations in /app/alembic are no part of the distribution.
RUN pip install --no-deps -e . && python -m compileall -q alembic core node cli
USER 10001:10001
WORKDIR /var/lib/sentinode
VOLUME ["/var/lib/sentinode"]
EXPOSE 11112
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s --retries=3 \
    CMD ["sentinode", "health", "scp"]
ENTRYPOINT ["sentinode"]
CMD ["up", "--roles", "scp,intake,dispatch,send"]


FROM base AS worker
ARG EXTRA_PACKAGES=""
# The usual build of torch brings CUDA (several GB). For a CPU image name an index of CPU builds.
ARG TORCH_INDEX=""
RUN pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} torch
# All dependencies of pyproject.toml, in a layer of their own.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/requirements.txt \
    && pip install -c constraints.txt -r /tmp/requirements.txt ${EXTRA_PACKAGES} \
    && rm /tmp/requirements.txt
COPY alembic alembic
COPY core core
COPY models models
COPY workers workers
COPY node node
COPY cli cli
RUN pip install --no-deps -e . && python -m compileall -q alembic core models workers node cli
# Caches of matplotlib and torch; the home of the user is the data volume.
ENV MPLCONFIGDIR=/tmp/matplotlib TORCH_HOME=/tmp/torch
USER 10001:10001
WORKDIR /var/lib/sentinode
VOLUME ["/var/lib/sentinode"]
# Well when any worker on this broker answers; a worker that died is started again by the engine.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["sentinode", "health", "worker"]
ENTRYPOINT ["sentinode"]
CMD ["worker"]
