# The server in a container:
#   docker build -t creditdecoding .
#   docker run --rm -p 127.0.0.1:8000:8000 -e CREDIT_API_KEY=secret creditdecoding
# With a GPU: docker run --gpus all. Without one, a CPU build of PyTorch makes the image ten times
# smaller: --build-arg TORCH=torch==2.13.0+cpu --build-arg PIP_EXTRA_INDEX_URL=(PyTorch's CPU index)
FROM python:3.12-slim AS build

ARG TORCH=torch==2.13.0
ARG PIP_EXTRA_INDEX_URL=

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /src
# hadolint ignore=DL3013
RUN pip install "$TORCH"
COPY requirements/dev.txt requirements/
COPY pyproject.toml README.md LICENSE ./
COPY creditdecoding creditdecoding
# The lock has the versions.
RUN pip install --constraint requirements/dev.txt ".[server]"

FROM python:3.12-slim

RUN useradd --create-home --uid 10001 credit
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH HF_HOME=/models PYTHONUNBUFFERED=1
RUN mkdir /models && chown credit /models
VOLUME /models
USER 10001
WORKDIR /home/credit
EXPOSE 8000

HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# SIGTERM lets requests finish for --grace seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["credit", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "pocket"]
