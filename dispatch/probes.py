"""A worker's `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from keylane.errors import ConfigurationError
from keylane.telemetry import VERSION


class Probes:
    """Serves until closed. `reasons` tells why the worker is not ready; none means it is."""

    def __init__(self, registry: CollectorRegistry, reasons: Callable[[], list[str]]) -> None:
        self._registry = registry
        self._reasons = reasons
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(application, access_log=None)

    async def serve(self, host: str, port: int) -> str:
        """Start, and return the URL; port 0 takes any free one."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"can't listen on {host}:{port} for health and metrics ({error.strerror}); "
                "choose another --admin-port, or 0 for any free one"
            ) from error
        _, bound, *_ = self._runner.addresses[0]
        return f"http://{host}:{bound}"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": VERSION})

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = self._reasons()
        return web.json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
