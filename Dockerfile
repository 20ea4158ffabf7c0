# The web page and the HTTP API over an index, on the processor; docs/hub.md has the commands.
FROM python:3.11.13-slim-bookworm AS build
# Where wheels of PyTorch without CUDA lie, if pip's own index gives those with it; pip reads this variable.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY . .
RUN python -m venv /opt/glccl && /opt/glccl/bin/pip install --no-cache-dir --constraint constraints.txt ".[demo,mcp]"

FROM python:3.11.13-slim-bookworm
COPY --from=build /opt/glccl /opt/glccl
RUN useradd --uid 10001 --create-home glccl
USER 10001
ENV PATH=/opt/glccl/bin:$PATH HF_HOME=/tmp/huggingface
# Mount the videos read-only, under the path at which they were indexed.
VOLUME ["/videos", "/index"]
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m CMD ["python", "-c", "import os, urllib.request as web; web.urlopen(web.Request('http://localhost:7860/api/health', headers={'Authorization': 'Bearer ' + os.environ.get('GLCCL_TOKEN', '')}))"]
# Refuses to start without GLCCL_TOKEN, GLCCL_USER or --public.
ENTRYPOINT ["glccl", "serve", "--host", "0.0.0.0", "--port", "7860", "--index", "/index"]
