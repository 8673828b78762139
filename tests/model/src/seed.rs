//! Frames of the fixtures as seeds of the fuzz targets.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::{env, fmt, fs};

/// The folder for seeds, if any are wanted.
static FOLDER: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| env::var_os("WEIR_FUZZ_SEEDS").map(PathBuf::from));

/// Keeps a run of this one frame for `target`: the words before it and after it, two bytes each. One is enough of each
/// length and way out. Nothing is kept of a frame that is too long for a run, or where the environment's
/// `WEIR_FUZZ_SEEDS` names no folder.
///
/// # Panics
/// Where the folder cannot be written.
pub(crate) fn keep(target: &str, way_out: impl fmt::Debug, before: &[u16], frame: &[u8], after: &[u16]) {
    let (Some(folder), Ok(_)) = (&*FOLDER, u8::try_from(frame.len())) else { return };
    let folder = folder.join(target);
    let file = folder.join(format!("{way_out:?}-{}", frame.len()));
    if !file.exists() {
        fs::create_dir_all(&folder).expect("the folder for seeds can be made");
        fs::write(file, run(before, frame, after)).expect("a seed can be written");
    }
}

/// What [`crate::Bytes`] reads as these words, this frame and those words.
fn run(before: &[u16], frame: &[u8], after: &[u16]) -> Vec<u8> {
    let words = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    [words(before), words(&[frame.len() as u16]), frame.to_vec(), words(after)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::{Bytes, Choice as _};

    #[test]
    fn a_seed_is_read_as_its_words_and_its_frame() {
        let run = run(&[1, 300], &[0xab; 200], &[7]);
        let mut bytes = Bytes(&run);
        assert_eq!((bytes.word(), bytes.word()), (1, 300));
        assert_eq!(bytes.frame(), [0xab; 200]);
        assert_eq!(bytes.word(), 7);
        assert!(bytes.is_empty());
    }
}
