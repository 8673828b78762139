"""New flows beyond a service's limit, sources that nobody can have, packets without a hop left."""

from scapy.all import ICMP, TCP, UDP, Dot1Q, ICMPv6EchoRequest, IPv6ExtHdrFragment, Raw, fragment, fragment6

from . import Case, unchanged
from .forwarding import forwarded

# Four flows of each source may start at the scene's time.
FLOWS = 4

NOBODY = {
    4: ("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.255.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255"),
    6: ("::1", "::", "ff02::1", "ff0e::99"),
}
SOMEBODY = {4: ("240.0.0.1", "223.255.255.254", "1.0.0.1", "128.0.0.1"), 6: ("::2", "fe00::1", "2000::")}


def limited(world, found, family):
    port = world.ports["limited4"]

    def syn(sport, source=None, transport=TCP(flags="S"), link=None):
        ip = world.ip(family) if source is None else world.ip(family, src=source)
        segment = transport.copy()
        segment.sport, segment.dport = sport, port
        return (link or world.ether()) / ip / segment

    def case(name, frame, reason, before):
        check = unchanged("drop") if reason == "source_limited" else forwarded(4)
        found.append(Case(f"IPv{family}: {name}", frame, reason, check, before=before))

    had = [syn(40000 + n) for n in range(FLOWS)]
    tag = world.ether() / Dot1Q(vlan=100)
    datagram = UDP() / Raw(b"x" * 40)
    far = {4: "203.0.113.200", 6: "2001:db8:ffff::9"}[family]
    near = {4: "192.0.2.2", 6: "2001:db8::2"}[family]
    case("the last flow that a source may start", syn(41000), "flow_new", had[1:])
    case("one flow more", syn(41000), "source_limited", had)
    case("one flow more behind a tag", syn(41000, link=tag), "source_limited", had)
    case("one flow more, of UDP", syn(41000, transport=datagram), "source_limited", had)
    case("one flow more, of a neighbour in the prefix", syn(41000, source=near), "source_limited", had)
    case("a flow of another source", syn(41000, source=far), "flow_new", had)
    case("a known flow of a source that had its share", syn(40001, transport=TCP(flags="A")), "flow_known", had)
    case("mid-flow from a source that had its share", syn(41000, transport=TCP(flags="A")), "flow_resumed", had)
    big = syn(41000, transport=UDP() / Raw(b"x" * 1000))
    if family == 4:
        first = fragment(big, 512)[0]
    else:
        ip, payload = big.payload.copy(), big.payload.payload
        ip.remove_payload()
        first = world.ether() / fragment6(ip / IPv6ExtHdrFragment(id=9) / payload, 600)[0]
    case("one flow more, of UDP in fragments", first, "source_limited", had)


def martian(world, found, family):
    port = world.ports[f"ipip{family}"]

    def case(name, fields, segment, reason, to=forwarded(family)):
        frame = world.ether() / world.ip(family, **fields) / segment
        check = to if reason == "flow_new" else unchanged("drop")
        found.append(Case(f"IPv{family}: {name}", frame, reason, check))

    for source in NOBODY[family]:
        case(f"SYN from {source}", {"src": source}, TCP(sport=40000, dport=port, flags="S"), "martian")
        case(f"datagram from {source}", {"src": source}, UDP(sport=40000, dport=port) / b"x", "martian")
    for source in SOMEBODY[family]:
        case(f"SYN from {source}", {"src": source}, TCP(sport=40000, dport=port, flags="S"), "flow_new")
    own = {"src": world.vip(family)}
    case("SYN from its own destination and port", own, TCP(sport=port, dport=port, flags="S"), "martian")
    case("SYN from its own destination", own, TCP(sport=40000, dport=port, flags="S"), "flow_new")
    case("datagram with equal ports", {}, UDP(sport=port, dport=port) / b"x", "flow_new")


def hops(world, found, family):
    field = {4: "ttl", 6: "hlim"}[family]
    port = world.ports[f"ipip{family}"]
    echo = ICMP() / Raw(b"x" * 16) if family == 4 else ICMPv6EchoRequest(data=b"x" * 16)
    for name, segment in (("SYN", TCP(sport=40000, dport=port, flags="S")), ("echo request", echo)):
        frame = world.ether() / world.ip(family, **{field: 0}) / segment
        found.append(Case(f"IPv{family}: {name} without a hop left", frame, "ttl_expired", unchanged("drop")))
    frame = world.ether() / world.ip(family, **{field: 1}) / TCP(sport=40000, dport=port, flags="S")
    found.append(Case(f"IPv{family}: SYN with its last hop", frame, "flow_new", forwarded(family)))


def cases(world):
    found = []
    for family in (4, 6):
        for feature in (limited, martian, hops):
            feature(world, found, family)
    return found
