"""An independent builder and reader of frames: scapy makes what the packet program gets and judges what it answers.

usage: oracle.py build WORLD     one JSON object a line: the frames of every case
       oracle.py check WORLD     reads results, one JSON object a line, and prints what is wrong

WORLD is a JSON object with the addresses and ports of the tables that the frames run through.
Both calls make the same cases, so a result finds its case by its name.
"""

import json
import sys

from cases import Case, World, all_cases


def build(cases):
    for case in cases:
        print(json.dumps({
            "name": case.name,
            "before": [bytes(frame).hex() for frame in case.before],
            "frame": bytes(case.frame).hex(),
            "next_hop": case.next_hop,
            "reason": case.reason,
        }))


def check(cases):
    by_name = {case.name: case for case in cases}
    wrong = 0
    for line in sys.stdin:
        result = json.loads(line)
        try:
            by_name[result["name"]].judge(result["verdict"], bytes.fromhex(result["output"]))
        except AssertionError as error:
            wrong += 1
            print(f"{result['name']}: {error}\n  output {result['output']}")
    sys.exit(1 if wrong else 0)


def main():
    command, world = sys.argv[1:]
    cases = all_cases(World(json.loads(world)))
    assert len({case.name for case in cases}) == len(cases), "two cases have one name"
    {"build": build, "check": check}[command](cases)


main()
