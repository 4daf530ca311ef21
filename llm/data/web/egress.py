"""The egress guard: a crawl connects to public addresses, and to private ones only where the recipe names them.

Names are judged by the addresses they resolve to, and the connection goes to exactly the address that was judged, so
a DNS answer that changes in between gains nothing. The guard stands in three places: in Twisted's resolver (through
which literal addresses go as well), around `reactor.connectTCP`, and in Scrapy's download handler, which fails closed
when the resolver is not in place and gives the refusal its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.exceptions import CannotResolveHostError, IgnoreRequest
from twisted.internet.interfaces import IHostnameResolver
from zope.interface import implementer

from ..common.addresses import private_kind
from .links import parse_host_port


class EgressRefused(IgnoreRequest):  # type: ignore[misc]
    """A connection that the guard did not allow; the message says why. Scrapy never retries an IgnoreRequest."""


class EgressPolicy:
    """Decides which addresses may be connected to."""

    def __init__(self, allow_private: Iterable[str] = (), ports: Iterable[int] = (80, 443)) -> None:
        """Takes the hosts ("host:port") whose addresses may be private, and the ports allowed in public."""
        self._allowed_names = {parse_host_port(name) for name in allow_private}
        self._ports = frozenset(ports)
        self._approved: set[tuple[str, int]] = set()
        self.refusals: dict[tuple[str, int], str] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> EgressPolicy:
        """Returns the policy itself: Scrapy copies its settings, and all parts of the guard must share one policy."""
        return self

    def rejection_reason(self, host: str, address: str, port: int) -> str | None:
        """Returns why `host`, resolved to `address`, may not be connected to at `port`; None when it may."""
        if (host.lower().rstrip("."), port) in self._allowed_names or (address, port) in self._allowed_names:
            self._approved.add((address, port))
            return None
        if (address, port) in self._approved:
            return None
        if kind := private_kind(address):
            return f"{host}:{port} is {kind} address ({address}); if it is meant, add '{host}:{port}' to allow_private"
        if port not in self._ports:
            return f"port {port} of {host} is not one of {sorted(self._ports)}"
        return None

    def judge(self, host: str, addresses: Sequence[str], port: int) -> bool:
        """Returns whether all addresses of a host may be connected to.

        One bad one refuses the host, and the reason is kept.
        """
        reasons = [text for address in addresses if (text := self.rejection_reason(host, address, port))]
        if reasons:
            self.refusals[host.lower(), port] = reasons[0]
        return not reasons


@implementer(IHostnameResolver)
class GuardedResolver:
    """Twisted's resolver behind the policy; Scrapy's setting TWISTED_DNS_RESOLVER.

    (A resolver of the older kind, installed with `installResolver`, would be bypassed by literal addresses.)
    """

    def __init__(self, policy: EgressPolicy, reactor: Any) -> None:
        self.policy, self.reactor, self.inner = policy, reactor, reactor.nameResolver

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> GuardedResolver:
        """Returns an instance; Scrapy's process calls this with itself in the place of the crawler."""
        return cls(crawler.settings["EGRESS_POLICY"], reactor)

    def install_on_reactor(self) -> None:
        """Puts the guard into the reactor: as its resolver, and around `connectTCP`, where only literals may arrive."""
        self.reactor.installNameResolver(self)
        connect = self.reactor.connectTCP

        def guarded_connect(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
            try:
                rejection_reason = self.policy.rejection_reason(host, host, port)
            except ValueError:
                rejection_reason = f"{host}:{port} is not an address that was checked"
            if rejection_reason:
                raise EgressRefused(rejection_reason)
            return connect(host, port, *args, **kwargs)

        self.reactor.connectTCP = guarded_connect

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        """Resolves a name and passes its addresses on, all or none."""
        receiver = _JudgingReceiver(resolutionReceiver, self.policy, hostName, portNumber)
        return self.inner.resolveHostName(receiver, hostName, portNumber, addressTypes, transportSemantics)


class _JudgingReceiver:
    """Collects the addresses of a name; hands them on when the policy allows every one (IResolutionReceiver)."""

    def __init__(self, receiver: Any, policy: EgressPolicy, host: str, port: int) -> None:
        self._receiver, self._policy, self._host, self._port = receiver, policy, host, port
        self._addresses: list[Any] = []

    def resolutionBegan(self, resolution: Any) -> None:
        self._receiver.resolutionBegan(resolution)

    def addressResolved(self, address: Any) -> None:
        self._addresses.append(address)

    def resolutionComplete(self) -> None:
        if self._policy.judge(self._host, [address.host for address in self._addresses], self._port):
            for address in self._addresses:
                self._receiver.addressResolved(address)
        self._receiver.resolutionComplete()


class GuardedHandler(HTTP11DownloadHandler):  # type: ignore[misc]
    """Scrapy's HTTP handler, which here fails closed without the guard and tells a refusal from a DNS failure."""

    def __init__(self, crawler: Any) -> None:
        super().__init__(crawler)
        self._policy: EgressPolicy = crawler.settings["EGRESS_POLICY"]

    async def download_request(self, request: Any) -> Any:
        """Downloads directly, never through a proxy, which would connect where the guard cannot see it."""
        from twisted.internet import reactor

        if not isinstance(reactor.nameResolver, GuardedResolver):
            raise EgressRefused("the egress guard is not in place")
        request.meta.pop("proxy", None)
        try:
            return await super().download_request(request)
        except CannotResolveHostError as error:
            parts = urlsplit(request.url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            if refusal := self._policy.refusals.get((parts.hostname or "", port)):
                raise EgressRefused(refusal) from error
            raise
