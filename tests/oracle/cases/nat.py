"""Mode nat: both directions, every pair of families, checksums, what is too big, errors about translated packets."""

from scapy.all import (
    ICMP, IP, TCP, UDP, Dot1Q, Ether, ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6,
    IPv6ExtHdrDestOpt, IPOption_NOP, PadN, Raw,
)

from . import Case, equal, sound, unchanged
from .forwarding import inner
from .icmp import error, reset

# What RFC 7915 makes of an error: by family and (type, code, word), the other family's.
COUNTERPART = {
    (4, (3, 4, 1400)): (2, 0, 1420),
    (4, (3, 4, 600)): (2, 0, 1280),
    (4, (3, 3, 0)): (1, 4, 0),
    (4, (3, 1, 0)): (1, 0, 0),
    (4, (3, 13, 0)): (1, 1, 0),
    (4, (11, 0, 0)): (3, 0, 0),
    (6, (2, 0, 1400)): (3, 4, 1380),
    (6, (1, 4, 0)): (3, 3, 0),
    (6, (1, 0, 0)): (3, 1, 0),
    (6, (1, 1, 0)): (3, 10, 0),
    (6, (3, 0, 0)): (11, 0, 0),
}


def fields(packet):
    """What of an IP header outlives it, in the terms of both families."""
    if isinstance(packet, IP):
        return {"tc": packet.tos, "ttl": packet.ttl, "id": packet.id, "flags": str(packet.flags), "fl": 0}
    return {"tc": packet.tc, "ttl": packet.hlim, "id": 0, "flags": "DF", "fl": packet.fl}


def ip(family, src, dst, kept):
    if family == 4:
        return IP(src=src, dst=dst, tos=kept["tc"], ttl=kept["ttl"], id=kept["id"], flags=kept["flags"])
    return IPv6(src=src, dst=dst, tc=kept["tc"], hlim=kept["ttl"], fl=kept["fl"])


def transport(packet):
    return packet[TCP] if TCP in packet else packet[UDP]


def rewritten(came, family, src, dst, ports, keep_zero):
    """The packet with these ends, as scapy builds it."""
    body = transport(came).copy()
    body.sport, body.dport = ports
    zero = isinstance(body, UDP) and body.chksum == 0
    if not (zero and keep_zero):
        del body.chksum
    if isinstance(body, UDP):
        del body.len
    return ip(family, src, dst, fields(came)) / body


def leaves(family, src, dst, ports, change=None, tags=0):
    """Leaves as the packet that came, with these ends; `dst` None is any backend."""

    def check(verdict, before, after):
        equal("verdict", verdict, "tx")
        (came, _), (left, found) = inner(before), inner(after)
        equal("tags", len(found), tags)
        sound(left)
        to = left.dst if dst is None else dst
        expected = rewritten(came, family, src, to, ports, not (isinstance(came, IP) and family == 6))
        if change:
            change(expected)
        equal("packet", bytes(left)[:len(expected)].hex(), bytes(expected).hex())

    return check


def segment(flow, flags="S", **extra):
    options = {"sport": flow["client_port"], "dport": flow["vip_port"]}
    if flow["protocol"] == "tcp":
        return TCP(flags=flags, seq=1000, ack=77 if "A" in flags else 0, **options, **extra)
    return UDP(**options)


def there(world, flow, flags="S", payload=b"", **extra):
    """The client's packet."""
    header = {"tos": 0xB8, "ttl": 57, "id": 4711, "flags": "DF"} if flow["family"] == 4 else {"tc": 0xB8, "hlim": 57, "fl": 0x12345}
    return world.ether() / world.ip(flow["family"], **header) / segment(flow, flags, **extra) / Raw(payload)


def back(world, flow, flags="SA", payload=b"", **extra):
    """The backend's answer."""
    family = 4 if ":" not in flow["snat"] else 6
    header = {"tos": 2, "ttl": 64, "id": 9, "flags": "DF"} if family == 4 else {"tc": 2, "hlim": 64, "fl": 0x54321}
    ports = {"sport": flow["backend_port"], "dport": flow["port"]}
    body = TCP(flags=flags, seq=5, ack=1001, **ports, **extra) if flow["protocol"] == "tcp" else UDP(**ports)
    addresses = {"src": flow["backend"], "dst": flow["snat"]}
    return world.ether() / world.ip(family, **header, **addresses) / body / Raw(payload)


def name(flow):
    return f"{flow['protocol']} from IPv{flow['family']} to IPv{4 if ':' not in flow['snat'] else 6}"


def bodies(flow):
    yield "nothing", b""
    for size in (1, 2, 7, 64, 999):
        yield f"{size} bytes", bytes((13 * n + size) % 256 for n in range(size))


def both_ways(world):
    for flow in world.nat:
        own, other = flow["family"], 4 if ":" not in flow["snat"] else 6
        out = leaves(other, flow["snat"], flow["backend"], (flow["port"], flow["backend_port"]))
        home = leaves(own, world.vip(own), world.client(own), (flow["vip_port"], flow["client_port"]))
        for size, body in bodies(flow):
            yield Case(f"nat: {name(flow)}, {size}", there(world, flow, payload=body), "flow_new", out)
            opened = there(world, flow)
            yield Case(f"nat answer: {name(flow)}, {size}", back(world, flow, payload=body), "nat_reply", home, before=[opened])
        again = [there(world, flow), back(world, flow)]
        yield Case(f"nat, goes on: {name(flow)}", there(world, flow, "PA", b"data"), "flow_known", out, before=again)
        tagged = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01") / Dot1Q(vlan=7, prio=3)
        with_tag = tagged / there(world, flow).payload
        yield Case(f"nat answer behind the client's tag: {name(flow)}", back(world, flow), "nat_reply",
                   leaves(own, world.vip(own), world.client(own), (flow["vip_port"], flow["client_port"]), tags=1), before=[with_tag])
        yield Case(f"nat behind a tag: {name(flow)}", there(world, flow), "flow_new",
                   leaves(other, flow["snat"], flow["backend"], (flow["port"], flow["backend_port"]), tags=1), next_hop=3)
        stranger = back(world, flow)
        stranger[UDP if flow["protocol"] == "udp" else TCP].sport += 1
        reason = "unmatched_reject"
        expected = reset("R", 1001, 0) if flow["protocol"] == "tcp" else error(3, 3, 0) if other == 4 else error(1, 4, 0)
        yield Case(f"nat: not the backend's port: {name(flow)}", stranger, reason, expected, before=[opened])


def checksums(world):
    for flow in world.nat:
        other = 4 if ":" not in flow["snat"] else 6
        out = leaves(other, flow["snat"], flow["backend"], (flow["port"], flow["backend_port"]))
        if flow["protocol"] == "udp" and flow["family"] == 4:
            for size, body in bodies(flow):
                frame = there(world, flow, payload=body)
                frame[UDP].chksum = 0
                yield Case(f"nat: no checksum: {name(flow)}, {size}", frame, "flow_new", out)
        if flow["protocol"] == "tcp":
            limit = {4: 1460, 6: 1440}[flow["family"]]
            for mss in (536, 1440, 1460, 8960):
                def lower(packet, mss=min(mss, limit)):
                    packet[TCP].options = [("NOP", None), ("MSS", mss), ("SAckOK", b"")]
                    del packet[TCP].chksum
                frame = there(world, flow, options=[("NOP", None), ("MSS", mss), ("SAckOK", b"")])
                yield Case(f"nat: MSS {mss}: {name(flow)}", frame, "flow_new",
                           leaves(other, flow["snat"], flow["backend"], (flow["port"], flow["backend_port"]), change=lower))
        extra = IP(options=[IPOption_NOP()] * 8) if flow["family"] == 4 else None
        if extra:
            frame = there(world, flow)
            frame[IP].options = [IPOption_NOP()] * 8
            frame[IP].ihl = None
        else:
            ether, rest = world.ether(), there(world, flow)[IPv6]
            frame = ether / IPv6(src=rest.src, dst=rest.dst, tc=rest.tc, hlim=rest.hlim, fl=rest.fl) \
                / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) / rest.payload
        yield Case(f"nat: options end here: {name(flow)}", Ether(bytes(frame)), "flow_new", out)


def sizes(world):
    for flow in world.nat:
        if flow["protocol"] != "tcp":
            continue
        own, other = flow["family"], 4 if ":" not in flow["snat"] else 6
        grows = {(4, 6): 20, (6, 4): -20}.get((own, other), 0)
        header = {4: 40, 6: 60}[own]
        opened = [there(world, flow), back(world, flow)]
        most = 1500 - max(grows, 0) if grows > 0 else 1500
        fits = there(world, flow, "A", b"x" * (most - header))
        out = leaves(other, flow["snat"], flow["backend"], (flow["port"], flow["backend_port"]))
        yield Case(f"nat: just fits: {name(flow)}", fits, "flow_known", out, before=opened)
        if grows > 0:
            frame = there(world, flow, "A", b"x" * (most - header + 1))
            yield Case(f"nat: too big: {name(flow)}", frame, "too_big", error(3, 4, most), before=opened)
        if grows < 0:
            # The answer grows.
            frame = back(world, flow, "A", b"x" * (1481 - 40))
            yield Case(f"nat answer: too big: {name(flow)}", frame, "too_big", error(3, 4, 1480), before=opened)


def message(family, kind, code, word):
    return Raw(bytes([kind, code, 0, 0]) + word.to_bytes(4, "big"))


def told(family, src, dst, what, quoted):
    """An error as its receiver gets it: this type, code and word, about this packet, in whole or in part."""

    def check(verdict, before, after):
        equal("verdict", verdict, "tx")
        left, _ = inner(after)
        equal("ends", (left.src, left.dst), (src, dst))
        equal("hop limit", left.ttl if isinstance(left, IP) else left.hlim, 64)
        body = bytes(left.payload)
        equal("type, code, word", (body[0], body[1], int.from_bytes(body[4:8], "big")), what)
        quote = (IP if family == 4 else IPv6)(body[8:])
        equal("quoted ends", (quote.src, quote.dst), (quoted["src"], quoted["dst"]))
        header = 20 if family == 4 else 40
        equal("quoted ports", (int.from_bytes(body[8 + header:10 + header], "big"), int.from_bytes(body[10 + header:12 + header], "big")), quoted["ports"])
        probe = left.copy()
        if family == 4:
            probe[ICMP].chksum = None
            equal("checksum", bytes(left).hex(), bytes(IP(bytes(probe))).hex())

    return check


def errors(world):
    v4 = [(3, 4, 1400), (3, 4, 600), (3, 3, 0), (3, 1, 0), (3, 13, 0), (11, 0, 0)]
    v6 = [(2, 0, 1400), (1, 4, 0), (1, 0, 0), (1, 1, 0), (3, 0, 0)]
    routers = {4: "192.0.2.77", 6: "2001:db8:77::1"}
    kinds = {
        (3, 4): lambda word: ICMP(type=3, code=4, nexthopmtu=word),
    }

    def build(family, what):
        kind, code, word = what
        if family == 4:
            return kinds.get((kind, code), lambda word: ICMP(type=kind, code=code))(word)
        return {1: lambda: ICMPv6DestUnreach(code=code), 2: lambda: ICMPv6PacketTooBig(mtu=word), 3: lambda: ICMPv6TimeExceeded(code=code)}[kind]()

    for flow in world.nat:
        own, other = flow["family"], 4 if ":" not in flow["snat"] else 6
        opened = [there(world, flow)]
        sent = there(world, flow, payload=b"y" * 300)
        towards = rewritten(sent.payload, other, flow["snat"], flow["backend"], (flow["port"], flow["backend_port"]), True)
        answered = back(world, flow, payload=b"z" * 300)
        home = rewritten(answered.payload, own, world.vip(own), world.client(own), (flow["vip_port"], flow["client_port"]), True)
        for what in (v4 if other == 4 else v6):
            for cut in (28 if other == 4 else 48, 10_000):
                frame = world.ether() / world.ip(other, src=routers[other], dst=flow["snat"]) / build(other, what) / Raw(bytes(towards)[:cut])
                expected = what if own == other else COUNTERPART[(other, what)]
                quoted = {"src": world.client(own), "dst": world.vip(own), "ports": (flow["client_port"], flow["vip_port"])}
                yield Case(f"nat: {what} of {cut} to the client: {name(flow)}", frame, "icmp_error",
                           told(own, world.vip(own), world.client(own), expected, quoted), before=opened)
        for what in (v4 if own == 4 else v6):
            for cut in (28 if own == 4 else 48, 10_000):
                frame = world.ether() / world.ip(own, src=routers[own]) / build(own, what) / Raw(bytes(home)[:cut])
                expected = what if own == other else COUNTERPART[(own, what)]
                quoted = {"src": flow["backend"], "dst": flow["snat"], "ports": (flow["backend_port"], flow["port"])}
                yield Case(f"nat: {what} of {cut} to the backend: {name(flow)}", frame, "icmp_error",
                           told(other, flow["snat"], flow["backend"], expected, quoted), before=opened)
        damaged = world.ether() / world.ip(own, src=routers[own]) / build(own, (v4 if own == 4 else v6)[0]) / Raw(bytes(home))
        damaged = bytearray(bytes(damaged))
        damaged[-1] ^= 1
        yield Case(f"nat: a damaged error: {name(flow)}", Ether(bytes(damaged)), "malformed", unchanged("drop"), before=opened)


def refused(world):
    for flow in world.nat:
        if flow["protocol"] == "tcp":
            yield Case(f"nat: no such flow: {name(flow)}", there(world, flow, "PA", b"data"), "nat_no_flow", reset("R", 77, 0))
        elif flow["family"] == 4:
            frame = there(world, flow)
            frame[IP].flags = "MF"
            frame = frame / Raw(b"x" * 8)
            yield Case(f"nat: a fragment: {name(flow)}", Ether(bytes(frame)), "nat_fragment", unchanged("drop"))
    own = world.ether() / world.ip(4, dst=world.snat_own) / TCP(sport=80, dport=30000, flags="S")
    yield Case("nat: an address that the host has too", own, "unmatched_pass", unchanged("pass"))
    echo = world.ether() / world.ip(4, dst=world.snat_own) / ICMP() / Raw(b"ping")
    yield Case("nat: an echo to an address that the host has too", echo, "icmp", unchanged("pass"))


def cases(world):
    for family in (both_ways, checksums, sizes, errors, refused):
        yield from family(world)
