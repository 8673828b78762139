"""IPv4 and IPv6 fragments as scapy cuts them: each goes to its packet's backend, whole; what cannot be assigned drops."""

from scapy.all import IP, TCP, UDP, Dot1Q, Ether, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, Raw, fragment, fragment6

from . import Case, unchanged
from .forwarding import forwarded


def cut(packet, size):
    """The fragments of `packet`, with at most `size` bytes of payload each."""
    if isinstance(packet, IP):
        return fragment(packet, fragsize=size)
    return fragment6(packet, size + 48)


def datagram(world, family, port, size=4000, extra=None):
    ip = world.ip(family, id=77) if family == 4 else world.ip(family) / IPv6ExtHdrFragment(id=77)
    if extra is not None:
        ip = ip / extra
    return ip / UDP(sport=50002, dport=port) / Raw(bytes(range(250)) * (size // 250))


def cases(world):
    found = []
    for name, port, outer, gue in (
        ("ipip v4", world.ports["ipip4"], 4, False),
        ("ipip v6", world.ports["ipip6"], 6, False),
        ("gue v4", world.ports["gue4"], 4, True),
        ("gue v6", world.ports["gue6"], 6, True),
        ("dsr-l2", world.ports["dsr4"], 0, False),
    ):
        for family in (4, 6):
            pieces = [world.ether() / piece for piece in cut(datagram(world, family, port), 1400)]
            assert len(pieces) == 3, len(pieces)
            sent = forwarded(outer, gue=gue)
            text = f"of IPv{family} by {name}"
            found.append(Case(f"first fragment {text}", pieces[0], "flow_new", sent))
            found.append(Case(f"second fragment {text}", pieces[1], "fragment", sent, before=pieces[:1]))
            found.append(Case(f"last fragment before the second {text}", pieces[2], "fragment", sent, before=pieces[:1]))
            alone = "second fragment before the first " + text
            found.append(Case(alone, pieces[1], "fragment_unknown", unchanged("drop"), before=pieces[2:]))
            tagged = [world.ether() / Dot1Q(vlan=7) / piece.payload for piece in pieces]
            to = forwarded(outer, (200,), gue)
            found.append(Case(f"tagged fragment {text}", tagged[1], "fragment", to, before=tagged[:1], next_hop=3))
    port = world.ports["ipip4"]
    options = datagram(world, 6, port, extra=IPv6ExtHdrDestOpt())
    pieces = [world.ether() / piece for piece in cut(options, 1400)]
    found.append(Case("first fragment with destination options", pieces[0], "flow_new", forwarded(4)))
    found.append(Case("second fragment behind destination options", pieces[1], "fragment", forwarded(4), before=pieces[:1]))
    atomic = world.ip(6) / IPv6ExtHdrFragment(id=5, m=0, offset=0) / TCP(sport=50000, dport=port, flags="S")
    found.append(Case("atomic fragment", world.ether() / atomic, "flow_new", forwarded(4)))
    tiny = world.ip(4, flags="MF") / Raw(bytes(TCP(sport=50000, dport=port, flags="S"))[:8])
    tiny.proto = 6
    found.append(Case("tiny first fragment of TCP (RFC 1858)", world.ether() / tiny, "malformed", unchanged("drop")))
    over = world.ip(4, frag=1, proto=6) / Raw(b"\0" * 32)
    found.append(Case("fragment over the TCP header (RFC 1858)", world.ether() / over, "malformed", unchanged("drop")))
    elsewhere = IP(src=world.client4, dst=world.other4, flags="MF") / UDP() / Raw(b"\0" * 64)
    found.append(Case("fragment to another address", world.ether() / elsewhere, "not_vip", unchanged("pass")))
    return found
