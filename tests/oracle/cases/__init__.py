"""What a case is, and the cases of every feature."""

from scapy.all import ICMP, IP, TCP, UDP, Ether, IPv6, IPv6ExtHdrFragment, Raw
from scapy.layers.inet import IPerror
from scapy.layers.inet6 import IPerror6


class World:
    """The addresses and ports of the tables: `vip4`, `client6`, `other4`, `ports["ipip4"]` …"""

    def __init__(self, fields):
        self.__dict__.update(fields)

    def vip(self, family):
        return {4: self.vip4, 6: self.vip6}[family]

    def client(self, family):
        return {4: self.client4, 6: self.client6}[family]

    def ether(self):
        return Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")

    def ip(self, family, **fields):
        """From the client to the VIP; any field can be given instead."""
        fields = {"src": self.client(family), "dst": self.vip(family), **fields}
        return IP(**fields) if family == 4 else IPv6(**fields)


class Case:
    """A frame, the reason it leaves for, and what must hold of how it leaves.

    `check(verdict, input, output)` raises AssertionError. `before` are frames that come first and are not judged;
    `next_hop` is the next hop of every backend: 1 untagged, 3 behind a tag, 4 behind two and with an MTU of 600.
    """

    def __init__(self, name, frame, reason, check, before=(), next_hop=1):
        self.name, self.reason, self.check, self.next_hop = name, reason, check, next_hop
        self.frame, self.before = frame, before

    def judge(self, verdict, output):
        self.check(verdict, bytes(self.frame), output)


def equal(what, found, expected):
    assert found == expected, f"{what}: {found!r}, expected {expected!r}"


def unchanged(verdict):
    """Leaves with this verdict, byte for byte as it came."""

    def check(found, before, after):
        equal("verdict", found, verdict)
        equal("frame", after.hex(), before.hex())

    return check


def cut(layer):
    """What follows is a part of a packet, in a fragment."""
    if isinstance(layer, IPv6ExtHdrFragment):
        return layer.m or layer.offset
    return isinstance(layer, IP) and (layer.flags.MF or layer.frag)


def sound(packet):
    """Every length and checksum of `packet`, quoted packets and parts of packets apart, is what scapy computes."""
    raw = bytes(packet)
    fresh = packet.copy()
    layer = fresh
    while layer and not isinstance(layer, (IPerror, IPerror6)):
        for field in ("chksum", "cksum", "len", "plen"):
            # A UDP checksum of 0 is none (RFC 768).
            none = field == "chksum" and isinstance(layer, UDP) and layer.chksum == 0
            if field in layer.fields and not none:
                delattr(layer, field)
        if cut(layer):
            break
        layer = layer.payload
    equal("lengths and checksums", bytes(fresh).hex(), raw.hex())


def all_cases(world):
    from . import filters, forwarding, fragments, icmp, limits, nat, quic

    cases = []
    for feature in (filters, forwarding, fragments, icmp, limits, nat, quic):
        cases.extend(feature.cases(world))
    return cases
