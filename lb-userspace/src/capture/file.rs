//! Samples as a pcapng file: what a program said of each frame stands in the packets' comments.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use lb_common::capture::{Moment, Sample};
use lb_common::reason::{Reason, Verdict};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

/// Timestamps in units of 10⁻⁹ s.
const NANOSECONDS: u8 = 9;

/// Tells the name of the interface with an index, where there is one.
pub type NameOf = fn(u32) -> Option<String>;

/// A capture file that is being written.
pub struct CaptureFile<W: Write> {
    writer: PcapNgWriter<W>,
    snap: u32,
    /// What is added to `CLOCK_MONOTONIC` to give the time of day.
    epoch: Duration,
    name: NameOf,
    /// The file's number of each interface that it has.
    interfaces: BTreeMap<u32, u32>,
    /// Frames that came in and have not left yet, by the sample's number.
    waiting: BTreeMap<u64, (Sample, Vec<u8>)>,
    frames: u64,
}

impl<W: Write> CaptureFile<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(writer: W, snap: u32, epoch: Duration, name: NameOf) -> io::Result<Self> {
        let writer = PcapNgWriter::new(writer).map_err(io::Error::other)?;
        let (interfaces, waiting) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { writer, snap, epoch, name, interfaces, waiting, frames: 0 })
    }

    /// Frames written, the two of a forwarded packet counted as one.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Takes a sample and the frame's bytes. A frame is written once it has left.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn take(&mut self, sample: Sample, bytes: &[u8]) -> io::Result<()> {
        if sample.moment == Moment::Arrives as u32 {
            self.waiting.insert(sample.number, (sample, bytes.to_vec()));
            return Ok(());
        }
        // Its arrival was lost where the reader was too slow.
        let Some((arrival, frame)) = self.waiting.remove(&sample.number) else { return Ok(()) };
        let reason = Reason::ALL.get(sample.reason as usize).copied().unwrap_or(Reason::Inconsistent);
        let back = sample.interface == 0 || sample.interface == arrival.interface;
        let verdict = match reason.verdict() {
            Verdict::Pass => "pass",
            Verdict::Drop => "drop",
            Verdict::Answer => "tx",
            Verdict::Forward if back => "tx",
            Verdict::Forward => "redirect",
        };
        let comment = format!("weir: {verdict} ({})", reason.name());
        self.write(&arrival, arrival.interface, &frame, &format!("{comment}, as it arrived"))?;
        if matches!(reason.verdict(), Verdict::Forward | Verdict::Answer) {
            let port = if sample.interface == 0 { arrival.interface } else { sample.interface };
            self.write(&sample, port, bytes, &format!("{comment}, as it left"))?;
        }
        self.frames += 1;
        Ok(())
    }

    /// Hands everything over to the file's reader.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    fn write(&mut self, sample: &Sample, port: u32, bytes: &[u8], comment: &str) -> io::Result<()> {
        let interface_id = self.interface(port)?;
        let kept = bytes.len().min(self.snap.min(sample.length) as usize);
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: self.epoch + Duration::from_nanos(sample.time_ns),
            original_len: sample.length,
            data: Cow::Borrowed(&bytes[..kept]),
            options: vec![EnhancedPacketOption::Comment(Cow::Borrowed(comment))],
        };
        self.writer.write_pcapng_block(block).map(drop).map_err(io::Error::other)
    }

    /// The file's number of an interface, which it is given when it is first seen.
    fn interface(&mut self, port: u32) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&port) {
            return Ok(*number);
        }
        let name = (self.name)(port).unwrap_or_else(|| format!("ifindex {port}"));
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snap,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(io::Error::other)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(port, number);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    fn sample(number: u64, moment: Moment, interface: u32, reason: Reason, length: u32) -> Sample {
        let (moment, reason) = (moment as u32, reason as u32);
        Sample { number, time_ns: 1_000 + number, moment, interface, length, reason }
    }

    /// Interface number, bytes, whole length and comment.
    type Packet = (u32, Vec<u8>, u32, String);

    /// Interface names, and packets.
    fn read(file: &[u8]) -> (Vec<String>, Vec<Packet>) {
        let mut reader = PcapNgReader::new(file).unwrap();
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(block) => {
                    names.extend(block.options.iter().filter_map(|option| match option {
                        InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                        _ => None,
                    }));
                }
                Block::EnhancedPacket(block) => {
                    let comment = block.options.iter().find_map(|option| match option {
                        EnhancedPacketOption::Comment(comment) => Some(comment.to_string()),
                        _ => None,
                    });
                    let comment = comment.unwrap_or_default();
                    packets.push((block.interface_id, block.data.to_vec(), block.original_len, comment));
                }
                _ => {}
            }
        }
        (names, packets)
    }

    #[test]
    fn a_frame_is_written_as_it_arrived_and_as_it_left_with_verdict_and_reason() {
        let mut bytes = Vec::new();
        let name = |index: u32| index.checked_sub(2).map(|number| format!("eth{number}"));
        let mut file = CaptureFile::new(&mut bytes, 8, Duration::from_secs(9), name).unwrap();
        file.take(sample(1, Moment::Arrives, 2, Reason::FlowKnown, 60), &[1; 8]).unwrap();
        file.take(sample(2, Moment::Arrives, 2, Reason::FlowKnown, 6), &[2; 8]).unwrap();
        file.take(sample(2, Moment::Leaves, 0, Reason::NotVip, 6), &[2; 8]).unwrap();
        file.take(sample(1, Moment::Leaves, 3, Reason::FlowKnown, 80), &[3; 8]).unwrap();
        file.take(sample(7, Moment::Leaves, 3, Reason::FlowKnown, 80), &[7; 8]).unwrap();
        assert_eq!(file.frames(), 2);
        drop(file);
        let (names, packets) = read(&bytes);
        assert_eq!(names, ["eth0", "eth1"]);
        let comments: Vec<&str> = packets.iter().map(|packet| packet.3.as_str()).collect();
        assert_eq!(
            comments,
            [
                "weir: pass (not_vip), as it arrived",
                "weir: redirect (flow_known), as it arrived",
                "weir: redirect (flow_known), as it left",
            ]
        );
        // Padding behind a short frame is not of the frame.
        assert_eq!((packets[0].1.len(), packets[0].2), (6, 6));
        assert_eq!((packets[2].0, packets[2].1.as_slice(), packets[2].2), (1, [3; 8].as_slice(), 80));
    }
}
