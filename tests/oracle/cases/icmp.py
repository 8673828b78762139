"""ICMP errors to their flows' backends, and all that is answered: echo, resets, unreachables, what fits."""

from scapy.all import (
    ICMP, IP, TCP, UDP, Dot1Q, Ether, ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6PacketTooBig,
    ICMPv6ParamProblem, ICMPv6TimeExceeded, IPv6, IPv6ExtHdrHopByHop, PadN, Raw,
)
from scapy.layers.l2 import Dot1AD, GRE

from . import Case, equal, sound, unchanged
from .forwarding import forwarded, inner


def answered(judge):
    """Goes back the way it came, from the address that it was sent to; `judge(came, left)` looks at the IP packets."""

    def check(verdict, before, after):
        equal("verdict", verdict, "tx")
        one, two = Ether(before), Ether(after)
        equal("MACs", (two.dst, two.src), (one.src, one.dst))
        (came, tags), (left, found) = inner(before), inner(after)
        equal("tags", found, tags)
        equal("addresses", (left.src, left.dst), (came.dst, came.src))
        equal("TTL", left.ttl if isinstance(left, IP) else left.hlim, 64)
        sound(left)
        judge(came, left)

    return check


def reply(came, left):
    if isinstance(left, IP):
        equal("type", left[ICMP].type, 0)
        equal("echo", bytes(left[ICMP])[4:], bytes(came[ICMP])[4:])
    else:
        equal("type", bytes(left.payload)[0], 129)
        equal("echo", bytes(left.payload)[4:], bytes(came.payload)[4:])


def error(kind, code, word):
    """An error of this type and code with this further word, that quotes all it may."""

    def judge(came, left):
        message, quoted = bytes(left.payload), bytes(came)
        equal("type, code", (message[0], message[1]), (kind, code))
        equal("word", int.from_bytes(message[4:8], "big"), word)
        most = (576 if isinstance(left, IP) else 1280) - len(bytes(left)) + len(message) - 8
        equal("quote", message[8:].hex(), quoted[:most].hex())

    return answered(judge)


def reset(flags, seq, ack):
    def judge(came, left):
        tcp = left[TCP]
        equal("ports", (tcp.sport, tcp.dport), (came[TCP].dport, came[TCP].sport))
        equal("flags, sequence, acknowledgement", (str(tcp.flags), tcp.seq, tcp.ack), (flags, seq, ack))
        equal("nothing follows", len(tcp.payload), 0)

    return answered(judge)


def echo(world, family, size, destination=None):
    body = Raw(bytes((7 * n) % 256 for n in range(size)))
    destination = destination or world.vip(family)
    request = ICMP(id=0x1234, seq=7) if family == 4 else ICMPv6EchoRequest(id=0x1234, seq=7)
    return world.ip(family, dst=destination) / request / body


def echoes(world):
    for family in (4, 6):
        for size in (0, 1, 56, 57, 1400):
            yield Case(f"IPv{family} echo of {size} bytes", world.ether() / echo(world, family, size), "echo_answered", answered(reply))
        for name, tags in (("one tag", Dot1Q(vlan=7)), ("two tags", Dot1AD(vlan=9) / Dot1Q(vlan=7, prio=3))):
            yield Case(f"IPv{family} echo behind {name}", world.ether() / tags / echo(world, family, 9), "echo_answered", answered(reply))
        other = {4: world.other4, 6: world.other6}[family]
        yield Case(f"IPv{family} echo to another address", world.ether() / echo(world, family, 56, other), "not_vip", unchanged("pass"))
        off = {4: world.drop4, 6: world.drop6}[family]
        yield Case(f"IPv{family} echo to a VIP without", world.ether() / echo(world, family, 56, off), "echo_off", unchanged("drop"))
        group = Ether(src="02:00:00:00:00:02", dst="01:00:5e:00:00:01")
        yield Case(f"IPv{family} echo to a group of stations", group / echo(world, family, 56), "unanswerable", unchanged("drop"))
    many = world.ether() / IP(src="224.0.0.9", dst=world.vip4) / ICMP()
    yield Case("echo from a group", many, "unanswerable", unchanged("drop"))
    everyone = world.ether() / IP(src="255.255.255.255", dst=world.vip4) / ICMP()
    yield Case("echo from the broadcast address", everyone, "unanswerable", unchanged("drop"))
    asked = world.ether() / IPv6(src=world.client6, dst=world.vip6) / ICMPv6ND_NS(tgt=world.vip6)
    yield Case("neighbour solicitation", asked, "icmp", unchanged("pass"))


def too_big(world):
    def data(family, port, length, **fields):
        header = 20 if family == 4 else 40
        return world.ip(family, **fields) / TCP(sport=50000, dport=port, flags="A", seq=1, ack=2) / Raw(b"x" * (length - header - 20))

    ipip4, ipip6 = world.ports["ipip4"], world.ports["ipip6"]
    for name, frame, family, fits, hop in (
        ("IPv4 in IPv4", data(4, ipip4, 1481, flags="DF"), 4, 1480, 1),
        ("IPv4 in IPv6", data(4, ipip6, 1461, flags="DF"), 4, 1460, 1),
        ("IPv6 in IPv4", data(6, ipip4, 1481), 6, 1480, 1),
        ("IPv6 in IPv6", data(6, ipip6, 1500), 6, 1460, 1),
        ("IPv4 that may be fragmented", data(4, ipip4, 1500), 4, 1480, 1),
        ("IPv4 of 581 to an MTU of 600", data(4, ipip4, 581, flags="DF"), 4, 580, 4),
        ("IPv6 of 1281 to an MTU of 600", data(6, ipip4, 1281), 6, 1280, 4),
    ):
        expected = error(3, 4, fits) if family == 4 else error(2, 0, fits)
        yield Case(f"too big: {name}", world.ether() / frame, "too_big", expected, next_hop=hop)
        yield Case(f"too big, tagged: {name}", world.ether() / Dot1Q(vlan=7) / frame, "too_big", expected, next_hop=hop)
    fitting = world.ether() / data(4, ipip4, 1480, flags="DF")
    yield Case("just fits", fitting, "flow_resumed", forwarded(4))
    yield Case("IPv6 that no sender makes smaller", world.ether() / data(6, ipip4, 1280), "too_big", unchanged("drop"), next_hop=4)


def refused(world):
    for family in (4, 6):
        to = {4: world.reject4, 6: world.reject6}[family]
        ip = world.ip(family, dst=to)

        def tcp(flags, **fields):
            return TCP(sport=50000, dport=9, flags=flags, **fields)

        for name, segment, expected in (
            ("SYN", tcp("S", seq=77), reset("RA", 0, 78)),
            ("SYN with options", tcp("S", seq=0xffffffff, options=[("MSS", 1460)]), reset("RA", 0, 0)),
            ("ACK", tcp("A", seq=5, ack=900), reset("R", 900, 0)),
            ("data", tcp("PA", seq=5, ack=900) / Raw(b"some data"), reset("R", 900, 0)),
            ("FIN with data, without ACK", tcp("F", seq=10, ack=1) / Raw(b"bye"), reset("RA", 0, 14)),
            ("SYN-ACK", tcp("SA", seq=5, ack=0xffffffff), reset("R", 0xffffffff, 0)),
        ):
            yield Case(f"rejected over IPv{family}: {name}", world.ether() / ip / segment, "unmatched_reject", expected)
            if name == "data":
                tagged = world.ether() / Dot1AD(vlan=9) / Dot1Q(vlan=7) / ip / segment
                yield Case(f"rejected over IPv{family}, tagged: {name}", tagged, "unmatched_reject", expected)
        yield Case(f"rejected over IPv{family}: RST", world.ether() / ip / tcp("R", seq=5), "unanswerable", unchanged("drop"))
        port = (3, 3) if family == 4 else (1, 4)
        for size in (0, 1, 2, 3, 5, 700, 1400):
            datagram = world.ether() / ip / UDP(sport=50000, dport=9) / Raw(b"u" * size)
            yield Case(f"rejected over IPv{family}: UDP of {size}", datagram, "unmatched_reject", error(*port, 0))
        protocol = (3, 2, 0) if family == 4 else (4, 1, 6)
        yield Case(f"rejected over IPv{family}: GRE", world.ether() / ip / GRE() / Raw(b"x" * 20), "unmatched_reject", error(*protocol))
        none = world.ether() / world.ip(family) / TCP(sport=50000, dport=world.ports["reset"], flags="A", seq=1, ack=4711)
        yield Case(f"no backend over IPv{family}", none, "no_backend_reset", reset("R", 4711, 0))
    chain = world.ip(6, dst=world.reject6) / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
    yield Case("rejected: GRE behind an extension header", world.ether() / chain / GRE(), "unmatched_reject", error(4, 1, 40))
    segment = TCP(sport=50000, dport=9, flags="A", ack=900)
    yield Case("rejected: TCP behind an extension header", world.ether() / chain / segment, "unmatched_reject", reset("R", 900, 0))


def errors(world):
    port = world.ports["ipip4"]
    for family in (4, 6):
        sent = {"src": world.vip(family), "dst": world.client(family)}
        packet = IP(**sent, flags="DF") if family == 4 else IPv6(**sent)
        whole = packet / TCP(sport=port, dport=50000, flags="SA") / Raw(b"x" * 1000)
        header = 20 if family == 4 else 40
        router = world.ip(family, src={4: "192.0.2.77", 6: "2001:db8::77"}[family])
        kinds = {
            4: [("too big", ICMP(type=3, code=4, nexthopmtu=1400)), ("unreachable", ICMP(type=3, code=1)),
                ("time exceeded", ICMP(type=11)), ("parameter problem", ICMP(type=12))],
            6: [("too big", ICMPv6PacketTooBig(mtu=1400)), ("unreachable", ICMPv6DestUnreach(code=3)),
                ("time exceeded", ICMPv6TimeExceeded()), ("parameter problem", ICMPv6ParamProblem(ptr=6))],
        }[family]
        for name, kind in kinds:
            for size in (header + 8, header + 20, 500):
                frame = world.ether() / router / kind / Raw(bytes(whole)[:size])
                yield Case(f"IPv{family} {name}, {size} bytes quoted", frame, "icmp_error", forwarded(4))
            tagged = world.ether() / Dot1Q(vlan=7) / router / kind / Raw(bytes(whole)[:header + 8])
            yield Case(f"IPv{family} {name}, tagged", tagged, "icmp_error", forwarded(4))
            cut = world.ether() / router / kind / Raw(bytes(whole)[:header + 3])
            yield Case(f"IPv{family} {name}, ports cut off", cut, "icmp", unchanged("pass"))
        name, kind = kinds[0]
        stranger = packet.copy()
        stranger.src = world.client(family)
        forged = world.ether() / router / kind / Raw(bytes(stranger / TCP(sport=port, dport=50000)))
        yield Case(f"IPv{family} {name}, of a packet from elsewhere", forged, "icmp", unchanged("pass"))
        drop = {4: world.drop4, 6: world.drop6}[family]
        forged = world.ip(family, dst=drop) / kind / Raw(bytes(stranger / TCP(sport=port, dport=50000)))
        yield Case(f"IPv{family} {name}, of a packet from elsewhere, to a VIP that drops", world.ether() / forged,
                   "icmp_error_unmatched", unchanged("drop"))


def cases(world):
    return [*echoes(world), *too_big(world), *refused(world), *errors(world)]
