"""IPIP, GUE and DSR of every family pair and transport, with options, extension headers and VLAN tags."""

from scapy.all import (
    IP, TCP, UDP, Dot1Q, Ether, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN, Raw,
)
from scapy.layers.l2 import Dot1AD
from scapy.fields import BitField, ByteEnumField, XShortField
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, bind_layers

from . import Case, equal, sound, unchanged


class GUE(Packet):
    """draft-ietf-intarea-gue section 3, variant 0."""

    name = "GUE"
    fields_desc = [
        BitField("variant", 0, 2),
        BitField("control", 0, 1),
        BitField("hlen", 0, 5),
        ByteEnumField("proto", 4, {4: "IPv4", 41: "IPv6"}),
        XShortField("flags", 0),
    ]


bind_layers(UDP, GUE, dport=6080)
bind_layers(GUE, IP, proto=4)
bind_layers(GUE, IPv6, proto=41)


def inner(frame):
    """The IP packet below the tags, and the tags' VLAN ids."""
    packet, tags = Ether(frame), []
    layer = packet.payload
    while isinstance(layer, (Dot1Q, Dot1AD)):
        tags.append(layer.vlan)
        layer = layer.payload
    return layer, tags


def forwarded(outer, tags=(), gue=False):
    """Sent on with an outer header of family `outer`, or with none where that is 0; `gue` with UDP and GUE behind it."""

    def check(verdict, before, after):
        assert verdict in ("tx", "redirect"), verdict
        (came, _), (left, found) = inner(before), inner(after)
        equal("tags", found, list(tags))
        sound(left)
        if outer == 0:
            equal("packet", bytes(left).hex(), bytes(came).hex())
            return
        carried = left.payload
        protocol = own = {IP: 4, IPv6: 41}[type(came)]
        if gue:
            equal("UDP port, checksum", (carried.dport, carried.chksum), (6080, 0))
            assert carried.sport >= 0xC000, f"source port {carried.sport}"
            header = carried.payload
            equal("GUE", [getattr(header, field.name) for field in GUE.fields_desc], [0, 0, 0, own, 0])
            carried, protocol = header.payload, 17
        equal("inner packet", bytes(carried).hex(), bytes(came).hex())
        if outer == 4:
            equal("outer", type(left), IP)
            equal("protocol, TTL, flags, id", (left.proto, left.ttl, left.flags, left.id), (protocol, 64, "DF", 0))
            assert left.src.startswith("10.") and left.dst.startswith("10.9."), (left.src, left.dst)
            equal("DSCP and ECN", left.tos, came.tos if own == 4 else came.tc)
        else:
            equal("outer", type(left), IPv6)
            equal("next header, hop limit", (left.nh, left.hlim), (protocol, 64))
            assert left.src.startswith("fd01:") and left.dst.startswith("fd01:"), (left.src, left.dst)
            equal("DSCP and ECN", left.tc, came.tos if own == 4 else came.tc)
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
    for name, port, outer, gue in (
        ("ipip v4", world.ports["ipip4"], 4, False),
        ("ipip v6", world.ports["ipip6"], 6, False),
        ("gue v4", world.ports["gue4"], 4, True),
        ("gue v6", world.ports["gue6"], 6, True),
        ("dsr-l2", world.ports["dsr4"], 0, False),
    ):
        for family in (4, 6):
            for kind, transport, reason in transports(port):
                ip = world.ip(family)
                found.append(Case(f"{kind} in IPv{family} by {name}", world.ether() / ip / transport, reason, forwarded(outer, gue=gue)))
            marked = world.ip(family, tos=0xb9) if family == 4 else world.ip(family, tc=0xb9)
            syn = TCP(sport=50000, dport=port, flags="S")
            found.append(Case(f"DSCP and ECN of IPv{family} by {name}", world.ether() / marked / syn, "flow_new", forwarded(outer, gue=gue)))
            for hop, tags in ((3, [200]), (4, [200, 100])):
                frame = world.ether() / Dot1Q(vlan=7) / world.ip(family) / syn
                description = f"tagged IPv{family} by {name} to {len(tags)} tags"
                found.append(Case(description, frame, "flow_new", forwarded(outer, tags, gue), next_hop=hop))

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
