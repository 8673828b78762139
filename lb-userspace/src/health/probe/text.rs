//! Looking for a text in what a backend said.

#![forbid(unsafe_code)]

/// Whether `text` occurs in `data`.
pub(super) fn contains(data: &[u8], text: &[u8]) -> bool {
    text.is_empty() || data.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_anywhere() {
        assert!(contains(b"all good\n", b"good"));
        assert!(contains(b"", b""));
        assert!(!contains(b"goo", b"good"));
    }
}
