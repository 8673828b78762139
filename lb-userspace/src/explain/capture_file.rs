//! Frames of a capture file.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use thiserror::Error;

/// The first bytes of a pcapng file: its section header block's type.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Why a capture file cannot be used.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// Cannot be read.
    #[error("read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Frames of another kind of link.
    #[error("{path}: packets of link type {link:?}; a capture of Ethernet frames is needed")]
    NotEthernet {
        /// The file.
        path: PathBuf,
        /// Kind of link.
        link: DataLink,
    },
    /// Cut by the capture's snap length.
    #[error(
        "{path}: frame {number} is cut after {kept} of {length} bytes; capture whole frames (snap length 0)"
    )]
    Cut {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        number: usize,
        /// Bytes in the file.
        kept: usize,
        /// Bytes on the wire.
        length: u32,
    },
}

/// The frames of a pcap or pcapng file, in order.
///
/// # Errors
/// Where it cannot be read, or holds something other than whole Ethernet frames.
pub fn frames_of(path: &Path) -> Result<Vec<Vec<u8>>, CaptureError> {
    let failed = |cause: &dyn std::error::Error| CaptureError::Read {
        path: path.to_owned(),
        cause: cause.to_string(),
    };
    let mut file = File::open(path).map_err(|error| failed(&error))?;
    let mut start = [0; 4];
    file.read_exact(&mut start).map_err(|error| failed(&error))?;
    file.rewind().map_err(|error| failed(&error))?;
    let mut frames = Frames { path, frames: Vec::new() };
    let file = BufReader::new(file);
    if start == PCAPNG {
        let mut reader = PcapNgReader::new(file).map_err(|error| failed(&error))?;
        let mut links = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.map_err(|error| failed(&error))? {
                Block::SectionHeader(_) => links.clear(),
                Block::InterfaceDescription(interface) => links.push(interface.linktype),
                Block::EnhancedPacket(packet) => {
                    let link = links.get(packet.interface_id as usize).copied();
                    frames.add(link, &packet.data, packet.original_len)?;
                }
                Block::SimplePacket(packet) => {
                    frames.add(links.first().copied(), &packet.data, packet.original_len)?;
                }
                _ => {}
            }
        }
    } else {
        let mut reader = PcapReader::new(file).map_err(|error| failed(&error))?;
        let link = reader.header().datalink;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(|error| failed(&error))?;
            frames.add(Some(link), &packet.data, packet.orig_len)?;
        }
    }
    Ok(frames.frames)
}

struct Frames<'a> {
    path: &'a Path,
    frames: Vec<Vec<u8>>,
}

impl Frames<'_> {
    fn add(&mut self, link: Option<DataLink>, bytes: &[u8], length: u32) -> Result<(), CaptureError> {
        let path = || self.path.to_owned();
        if let Some(link) = link.filter(|link| *link != DataLink::ETHERNET) {
            return Err(CaptureError::NotEthernet { path: path(), link });
        }
        if (bytes.len() as u64) < u64::from(length) {
            let number = self.frames.len() + 1;
            return Err(CaptureError::Cut { path: path(), number, kept: bytes.len(), length });
        }
        self.frames.push(bytes.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn capture(link: u32, frames: &[(&[u8], u32)]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, link] {
            file.write_all(&word.to_ne_bytes()).unwrap();
        }
        for (frame, length) in frames {
            for word in [0, 0, frame.len() as u32, *length] {
                file.write_all(&word.to_ne_bytes()).unwrap();
            }
            file.write_all(frame).unwrap();
        }
        file
    }

    #[test]
    fn the_frames_of_a_capture_are_read_in_order() {
        let file = capture(1, &[(&[1; 20], 20), (&[2; 30], 30)]);
        assert_eq!(frames_of(file.path()).unwrap(), [vec![1; 20], vec![2; 30]]);
    }

    #[test]
    fn what_cannot_be_explained_is_refused_and_says_why() {
        let told = |file: &tempfile::NamedTempFile| frames_of(file.path()).unwrap_err().to_string();
        assert!(told(&capture(113, &[(&[1; 20], 20)])).contains("Ethernet frames is needed"));
        assert!(told(&capture(1, &[(&[1; 20], 99)])).contains("frame 1 is cut after 20 of 99 bytes"));
        assert!(frames_of(Path::new("/nonexistent")).unwrap_err().to_string().contains("/nonexistent"));
    }
}
