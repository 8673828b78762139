"""IPIP and DSR of every family pair and transport, with options, extension headers and VLAN tags."""

from scapy.all import (
    IP, TCP, UDP, Dot1Q, Ether, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN, Raw,
)
from scapy.layers.l2 import Dot1AD
from scapy.layers.sctp import SCTP, SCTPChunkInit

from . import Case, equal, sound, unchanged


def inner(frame):
    """The IP packet below the tags, and the tags' VLAN ids."""
    packet, tags = Ether(frame), []
    layer = packet.payload
    while isinstance(layer, (Dot1Q, Dot1AD)):
        tags.append(layer.vlan)
        layer = layer.payload
    return layer, tags


def forwarded(outer, tags=()):
    """Sent on with an outer header of family `outer`, or with none where that is 0."""

    def check(verdict, before, after):
        assert verdict in ("tx", "redirect"), verdict
        (came, _), (left, found) = inner(before), inner(after)
        equal("tags", found, list(tags))
        sound(left)
        if outer == 0:
            equal("packet", bytes(left).hex(), bytes(came).hex())
            return
        equal("inner packet", bytes(left.payload).hex(), bytes(came).hex())
        protocol = {IP: 4, IPv6: 41}[type(came)]
        if outer == 4:
            equal("outer", type(left), IP)
            equal("protocol, TTL, flags, id", (left.proto, left.ttl, left.flags, left.id), (protocol, 64, "DF", 0))
            assert left.src.startswith("10.") and left.dst.startswith("10.9."), (left.src, left.dst)
            equal("DSCP and ECN", left.tos, came.tos if protocol == 4 else came.tc)
        else:
            equal("outer", type(left), IPv6)
            equal("next header, hop limit", (left.nh, left.hlim), (protocol, 64))
            assert left.src.startswith("fd01:") and left.dst.startswith("fd01:"), (left.src, left.dst)
            equal("DSCP and ECN", left.tc, came.tos if protocol == 4 else came.tc)
            assert left.fl != 0, "no flow label"

    return check


def transports(port):
    return [
        ("SYN", TCP(sport=50000, dport=port, flags="S", options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)]), "flow_new"),
        ("ACK", TCP(sport=50001, dport=port, flags="A", seq=7, ack=9) / Raw(b"data"), "flow_resumed"),
        ("UDP", UDP(sport=50002, dport=port) / Raw(b"datagram"), "flow_new"),
        ("SCTP", SCTP(sport=50003, dport=port) / SCTPChunkInit(init_tag=1), "flow_new"),
    ]


def cases(world):
    found = []
    for name, port, outer in (
        ("ipip v4", world.ports["ipip4"], 4),
        ("ipip v6", world.ports["ipip6"], 6),
        ("dsr-l2", world.ports["dsr4"], 0),
    ):
        for family in (4, 6):
            for kind, transport, reason in transports(port):
                ip = world.ip(family)
                found.append(Case(f"{kind} in IPv{family} by {name}", world.ether() / ip / transport, reason, forwarded(outer)))
            marked = world.ip(family, tos=0xb9) if family == 4 else world.ip(family, tc=0xb9)
            syn = TCP(sport=50000, dport=port, flags="S")
            found.append(Case(f"DSCP and ECN of IPv{family} by {name}", world.ether() / marked / syn, "flow_new", forwarded(outer)))
            for hop, tags in ((3, [200]), (4, [200, 100])):
                frame = world.ether() / Dot1Q(vlan=7) / world.ip(family) / syn
                description = f"tagged IPv{family} by {name} to {len(tags)} tags"
                found.append(Case(description, frame, "flow_new", forwarded(outer, tags), next_hop=hop))

    port = world.ports["ipip4"]
    syn = TCP(sport=50000, dport=port, flags="S")
    options = world.ip(4, options=[IPOption_NOP()] * 8)
    chain = world.ip(6) / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
    chain = chain / IPv6ExtHdrRouting(addresses=[]) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    elsewhere = world.ether() / IP(src=world.client4, dst=world.other4) / syn
    found += [
        Case("IPv4 options", world.ether() / options / syn, "flow_new", forwarded(4)),
        Case("IPv6 extension headers", world.ether() / chain / syn, "flow_new", forwarded(4)),
        Case("known flow", world.ether() / world.ip(4) / syn, "flow_known", forwarded(4),
             before=[world.ether() / world.ip(4) / syn]),
        Case("to another address", elsewhere, "not_vip", unchanged("pass")),
        Case("tagged, to another address",
             world.ether() / Dot1Q(vlan=5) / IP(src=world.client4, dst=world.other4) / syn, "not_vip", unchanged("pass")),
        Case("a length that the frame does not hold", world.ether() / world.ip(4, len=400) / syn, "malformed", unchanged("drop")),
    ]
    return found
