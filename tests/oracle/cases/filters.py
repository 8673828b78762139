"""Sources that a VIP's deny and allow lists keep out."""

from scapy.all import ICMP, TCP, UDP, Dot1Q, ICMPv6EchoRequest, IPOption_NOP, IPv6ExtHdrHopByHop, Raw

from . import Case, unchanged
from .forwarding import forwarded


def address(world, name, family):
    return getattr(world, f"{name}{family}")


def cases(world):
    found = []
    for family in (4, 6):

        def case(name, source, payload, reason, to="vip", fields=None, link=None):
            fields = {"src": address(world, source, family), "dst": address(world, to, family), **(fields or {})}
            frame = (link or world.ether()) / world.ip(family, **fields) / payload
            check = forwarded(0) if reason.startswith("flow") else unchanged("drop")
            found.append(Case(f"IPv{family}: {name}", frame, reason, check))

        port = world.ports[f"dsr{family}"]
        syn = TCP(sport=40000, dport=port, flags="S")
        echo = ICMP() / Raw(b"x" * 16) if family == 4 else ICMPv6EchoRequest(data=b"x" * 16)
        case("SYN of a client that is denied everywhere", "denied", syn, "denied")
        case("ACK of a client that is denied everywhere", "denied", TCP(sport=40000, dport=port, flags="A"), "denied")
        case("datagram of a client that is denied everywhere", "denied", UDP(sport=40000, dport=port) / b"x", "denied")
        case("echo request of a client that is denied everywhere", "denied", echo, "denied")
        case("tagged SYN of a client that is denied", "denied", syn, "denied", link=world.ether() / Dot1Q(vlan=100))
        case("SYN of a client that is denied at another VIP", "there", syn, "flow_new")
        case("SYN of a client that is denied at this VIP", "there", syn, "denied", to="drop")
        case("SYN of a client that is not allowed", "stranger", syn, "not_allowed", to="allow")
        if family == 4:
            options = {"options": [IPOption_NOP()] * 4}
            case("SYN with options of a denied client", "denied", syn, "denied", fields=options)
        else:
            case("SYN behind hop-by-hop of a denied client", "denied", IPv6ExtHdrHopByHop() / syn, "denied")
    return found
