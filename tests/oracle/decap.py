"""Tunnelled packets and answers as scapy builds them, with what a backend must make of them.

usage: decap.py     one JSON object a line: {"name", "way": "in" | "out", "frame", "reason", "output"}

The backend serves 198.51.100.10 and 2001:db8::10, opens tunnels of 10.0.0.1 and fd00::/64, takes GUE on port 6080, and
announces an MSS of at most 1408 over IPv4 and 1388 over IPv6.
"""

import itertools
import json

from scapy.all import IP, TCP, UDP, Dot1Q, Ether, IPv6, Raw
from scapy.layers.l2 import Dot1AD

NOT_ECT, ECT1, ECT0, CE = 0, 1, 2, 3
# RFC 6040 figure 4, by inner and outer codepoint; None is dropped.
COMBINED = {
    (NOT_ECT, CE): None,
    (ECT0, ECT1): ECT1,
    (ECT0, CE): CE,
    (ECT1, CE): CE,
}

MACS = {"dst": "02:00:00:00:00:01", "src": "02:00:00:00:00:02"}


def link(tags):
    header = Ether(**MACS)
    for tag in tags:
        header = header / tag
    return header


def inner(version, traffic_class=0):
    payload = TCP(sport=50000, dport=80, flags="PA", seq=7, ack=9) / Raw(b"some data")
    if version == 4:
        return IP(src="203.0.113.9", dst="198.51.100.10", tos=traffic_class, ttl=57, id=4711) / payload
    return IPv6(src="2001:db8:c::9", dst="2001:db8::10", tc=traffic_class, hlim=57, fl=99) / payload


def outer(version, traffic_class=0, **fields):
    if version == 4:
        return IP(**{"src": "10.0.0.1", "dst": "10.0.1.11", "tos": traffic_class, "flags": "DF", **fields})
    return IPv6(**{"src": "fd00::2", "dst": "fd00:1::11", "tc": traffic_class, "fl": 12345, **fields})


def number(packet):
    return {IP: 4, IPv6: 41}[type(packet)]


def gue(packet, zero_checksum=True):
    fields = {"chksum": 0} if zero_checksum else {}
    return UDP(sport=49152, dport=6080, **fields) / Raw(bytes([0, number(packet), 0, 0]) + bytes(packet))


def incoming():
    tags = [[], [Dot1Q(vlan=100, prio=5)], [Dot1AD(vlan=7), Dot1Q(vlan=100)]]
    for stack, below, above, way in itertools.product(tags, (4, 6), (4, 6), ("ipip", "gue", "gue with a checksum")):
        packet = inner(above)
        tunnel = outer(below) / (packet if way == "ipip" else gue(packet, way == "gue"))
        reason = "opened_ipip" if way == "ipip" else "opened_gue"
        yield f"IPv{above} in IPv{below} by {way}, {len(stack)} tags", link(stack) / tunnel, reason, link(stack) / packet
    for below, above, way in itertools.product((4, 6), (4, 6), ("ipip", "gue")):
        for mark, outer_mark in itertools.product(range(4), range(4)):
            packet = inner(above, 0xB8 | mark)
            tunnel = link([]) / outer(below, 0x28 | outer_mark) / (packet if way == "ipip" else gue(packet))
            name = f"IPv{above} marked {mark} in IPv{below} marked {outer_mark} by {way}"
            left = COMBINED.get((mark, outer_mark), mark)
            if left is None:
                yield name, tunnel, "ecn_conflict", tunnel
            else:
                yield name, tunnel, f"opened_{way}", link([]) / inner(above, 0xB8 | left)
    strange = {
        "another source": (outer(4, src="10.0.0.2") / inner(4), "not_source"),
        "another destination": (outer(4) / IP(src="203.0.113.9", dst="198.51.100.99") / TCP(), "not_vip"),
        "a wrong checksum": (outer(4, chksum=0x1234) / inner(4), "outer_malformed"),
        "no tunnel": (inner(4), "not_tunnel"),
        "a packet in a packet in a packet": (outer(4) / IP(src="10.0.0.1", dst="10.0.1.11") / inner(4), "not_vip"),
        "a first fragment": (outer(4, flags="MF") / inner(4), "outer_fragment"),
        "a later fragment": (outer(4, flags=0, frag=5, proto=4) / inner(4), "outer_fragment"),
    }
    for name, (packet, reason) in strange.items():
        yield name, link([]) / packet, reason, link([]) / packet


def answer(version, options, flags="SA"):
    segment = TCP(sport=80, dport=50000, flags=flags, seq=1, ack=8, options=options)
    if version == 4:
        return link([]) / IP(src="198.51.100.10", dst="203.0.113.9", flags="DF") / segment
    return link([]) / IPv6(src="2001:db8::10", dst="2001:db8:c::9") / segment


def outgoing():
    limit = {4: 1408, 6: 1388}
    before = {"first": [], "at an odd offset": [("NOP", None)], "behind others": [("SAckOK", b""), ("WScale", 7)]}
    for version, (where, others), mss in itertools.product((4, 6), before.items(), (536, 1380, 1400, 1460, 8960, 65495)):
        after = [("Timestamp", (1, 2))]
        lowered = mss > limit[version]
        name = f"MSS {mss} {where} over IPv{version}"
        came = answer(version, others + [("MSS", mss)] + after)
        left = answer(version, others + [("MSS", min(mss, limit[version]))] + after)
        yield name, came, "mss_lowered" if lowered else "mss_fits", left
    for version in (4, 6):
        bare = answer(version, [("SAckOK", b"")])
        yield f"no MSS over IPv{version}", bare, "mss_absent", bare
        syn = answer(version, [("MSS", 1460)], "S")
        yield f"a SYN over IPv{version}", syn, "", syn


def main():
    for way, cases in (("in", incoming()), ("out", outgoing())):
        for name, frame, reason, output in cases:
            frame, output = bytes(frame).hex(), bytes(output).hex()
            print(json.dumps({"name": name, "way": way, "frame": frame, "reason": reason, "output": output}))


main()
