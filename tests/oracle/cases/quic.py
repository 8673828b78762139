"""QUIC by connection IDs (draft-ietf-quic-load-balancers-21, plaintext): to the server that is named, else by the flow."""

from scapy.all import UDP, Dot1Q, IPOption_NOP, IPv6ExtHdrDestOpt, Raw

from . import Case, equal, sound
from .forwarding import forwarded, inner

# Configuration 2 has server ids of 3 bytes, 5 of 12; the scene's n-th backend of pool 2 is 10.9.2.n.
POOL = 2


def server_id(n, length):
    return bytes([[POOL, n, 0xAA ^ byte][min(byte, 2)] for byte in range(length)])


def cid(n, config=2, length=3, rest=b"\x01\x02\x03\x04"):
    return bytes([config << 5 | 0x0B]) + server_id(n, length) + rest


def short(connection_id):
    return bytes([0x40 | 0x17]) + connection_id + bytes(range(40))


def long(connection_id, version=1):
    """A Handshake packet (RFC 9000 section 17.2.4) of 40 bytes, sealed."""
    header = bytes([0xE3]) + version.to_bytes(4, "big") + bytes([len(connection_id)]) + connection_id
    return header + b"\x08client12" + bytes([40]) + bytes(range(100, 140))


def to_backend(n, tags=()):
    """Sent on by IPIP over IPv4, to the `n`-th backend."""

    def check(verdict, before, after):
        forwarded(4, tags)(verdict, before, after)
        left, _ = inner(after)
        sound(left)
        equal("backend", left.dst, f"10.9.2.{n}")

    return check


def cases(world):
    port = world.ports["quic"]
    found = []
    for family in (4, 6):
        ip, text = world.ip(family), f"over IPv{family}"
        first = world.ether() / ip / UDP(sport=50007, dport=port) / Raw(long(bytes(8)))

        def datagram(payload, sport=50007, between=None):
            packet = ip if between is None else ip / between
            return world.ether() / packet / UDP(sport=sport, dport=port) / Raw(payload)

        for n in (0, 5):
            for sport in (50007, 50008):
                name = f"{n} from port {sport} {text}"
                found.append(Case(f"short header to {name}", datagram(short(cid(n)), sport), "quic_routed", to_backend(n), before=[first]))
                found.append(Case(f"long header to {name}", datagram(long(cid(n)), sport), "quic_routed", to_backend(n)))
            twelve = datagram(short(cid(n, 5, 12)))
            found.append(Case(f"the other configuration to {n} {text}", twelve, "quic_routed", to_backend(n)))
            longest = datagram(long(cid(n, 5, 12, bytes(7))))
            found.append(Case(f"a connection ID of 20 bytes to {n} {text}", longest, "quic_routed", to_backend(n)))
        version2 = datagram(long(cid(1), 0x6B3343CF))
        found.append(Case(f"another version {text}", version2, "quic_routed", to_backend(1)))
        tagged = world.ether() / Dot1Q(vlan=7) / datagram(short(cid(4))).payload
        found.append(Case(f"tagged {text}", tagged, "quic_routed", to_backend(4, (200,)), next_hop=3))
        for name, payload in (
            ("client's own connection ID", long(bytes([0x00, 1, 2, 3, 4, 5, 6, 7]))),
            ("reserved configuration", short(bytes([0xE8]) + cid(1)[1:])),
            ("configuration that is not in use", short(bytes([0x28]) + cid(1)[1:])),
            ("server id that nobody has", short(cid(77))),
            ("long header with a connection ID of 3 bytes", long(cid(1)[:3])),
            ("long header without a connection ID", long(b"")),
        ):
            found.append(Case(f"{name} {text}", datagram(payload), "flow_new", forwarded(4)))
            again = Case(f"{name}, again {text}", datagram(payload), "flow_known", forwarded(4), before=[datagram(payload)])
            found.append(again)
        # From a port of its own, whose packets tshark does not take for QUIC.
        byte = datagram(b"\x40", sport=50999)
        found.append(Case(f"datagram of one byte {text}", byte, "flow_new", forwarded(4)))
    options = world.ether() / world.ip(4, options=[IPOption_NOP()] * 4) / UDP(sport=50007, dport=port) / Raw(short(cid(6)))
    found.append(Case("behind IPv4 options", options, "quic_routed", to_backend(6)))
    behind = world.ether() / world.ip(6) / IPv6ExtHdrDestOpt() / UDP(sport=50007, dport=port) / Raw(short(cid(7)))
    found.append(Case("behind destination options", behind, "quic_routed", to_backend(7)))
    return found
