//! What becomes of congestion marks when the outer header goes (RFC 6040 section 4.2).

/// ECN codepoints (RFC 3168): 0 not capable, 1 ECT(1), 2 ECT(0), 3 congestion experienced.
const DROP: u32 = 4;

/// The codepoint that the packet leaves with, by the inner one (upper 2 bits of the index) and the outer one.
static COMBINED: [u32; 16] = [
    0, 0, 0, DROP, // the inner sender does not understand marks: a mark can only be told by a loss
    1, 1, 1, 3, //
    2, 1, 2, 3, //
    3, 3, 3, 3,
];

/// The inner packet's DSCP, with the mark of both; `None` where the packet must be dropped.
#[inline(always)]
pub(super) fn combine(inner: u32, outer: u32) -> Option<u32> {
    let mark = COMBINED[((inner & 3) << 2 | outer & 3) as usize];
    if mark == DROP { None } else { Some(inner & !3 | mark) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_combine_as_in_figure_4_of_rfc_6040() {
        const NOT: u32 = 0;
        const ECT1: u32 = 1;
        const ECT0: u32 = 2;
        const CE: u32 = 3;
        let rows = [
            (NOT, [(NOT, Some(NOT)), (ECT0, Some(NOT)), (ECT1, Some(NOT)), (CE, None)]),
            (ECT0, [(NOT, Some(ECT0)), (ECT0, Some(ECT0)), (ECT1, Some(ECT1)), (CE, Some(CE))]),
            (ECT1, [(NOT, Some(ECT1)), (ECT0, Some(ECT1)), (ECT1, Some(ECT1)), (CE, Some(CE))]),
            (CE, [(NOT, Some(CE)), (ECT0, Some(CE)), (ECT1, Some(CE)), (CE, Some(CE))]),
        ];
        for (inner, row) in rows {
            for (outer, expected) in row {
                // DSCP 46 inside, 10 outside: the inner one stays.
                let combined = combine(46 << 2 | inner, 10 << 2 | outer);
                assert_eq!(combined, expected.map(|mark| 46 << 2 | mark), "{inner} in {outer}");
            }
        }
    }
}
