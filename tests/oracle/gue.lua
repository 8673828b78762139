-- GUE (draft-ietf-intarea-gue section 3) for tshark: variant 0 without optional fields, then IPv4 or IPv6.
local gue = Proto("gue", "Generic UDP Encapsulation")
local start = ProtoField.uint8("gue.start", "Variant, control, length", base.HEX)
local protocol = ProtoField.uint8("gue.protocol", "Protocol")
local flags = ProtoField.uint16("gue.flags", "Flags", base.HEX)
local unknown = ProtoExpert.new("gue.unknown", "Not a packet of variant 0 with IP", expert.group.MALFORMED, expert.severity.ERROR)
gue.fields = { start, protocol, flags }
gue.experts = { unknown }

function gue.dissector(buffer, packet, tree)
  local below = tree:add(gue, buffer(0, 4))
  below:add(start, buffer(0, 1))
  below:add(protocol, buffer(1, 1))
  below:add(flags, buffer(2, 2))
  local inner = ({ [4] = "ip", [41] = "ipv6" })[buffer(1, 1):uint()]
  if buffer(0, 1):uint() ~= 0 or buffer(2, 2):uint() ~= 0 or not inner then
    below:add_proto_expert_info(unknown)
    return
  end
  Dissector.get(inner):call(buffer(4):tvb(), packet, tree)
end

DissectorTable.get("udp.port"):add(6080, gue)
