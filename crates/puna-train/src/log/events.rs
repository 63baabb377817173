//! TensorBoard's event files: scalars, written by hand.
//!
//! An event file is a series of TFRecords (length, its checksum, bytes, their checksum), each a
//! protobuf `Event`. Scalars need four fields of it, so that a protobuf library, its generated
//! code and the one old crate there is for this weigh more than these lines. Sources:
//! `tensorflow/core/lib/io/record_writer.h` and `tensorflow/core/util/event.proto`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::LogError;

/// What the first event of a file says.
const FILE_VERSION: &str = "brain.Event:2";
/// `SessionLog.SessionStatus.START`.
const SESSION_START: u64 = 1;
/// Addend of the masked checksum, `masked_crc32c` of `record_writer.h`.
const MASK_DELTA: u32 = 0xa282_ead8;

/// An event file, open for more scalars.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Begins an event file in `dir`, which is made if it is not there. A continued run, with
    /// `first_step` more than 0, has a further file; TensorBoard then forgets what earlier files
    /// say of `first_step` and later.
    ///
    /// # Errors
    /// If the folder or the file cannot be made or written.
    pub fn create(dir: &Path, first_step: u64) -> Result<Self, LogError> {
        std::fs::create_dir_all(dir).map_err(LogError::write(dir))?;
        let (path, file) = new_file(dir)?;
        let mut writer = Self { path, file };
        writer.event(0, |event| event.text(3, FILE_VERSION))?;
        if first_step > 0 {
            writer.event(first_step, |event| {
                let mut log = Message::default();
                log.varint(1, SESSION_START);
                event.message(7, &log);
            })?;
        }
        Ok(writer)
    }

    /// Writes scalars of a step, each with its tag such as `train/loss`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), LogError> {
        self.event(step, |event| {
            let mut summary = Message::default();
            for &(tag, value) in scalars {
                let mut entry = Message::default();
                entry.text(1, tag);
                entry.float(2, value as f32);
                summary.message(1, &entry);
            }
            event.message(5, &summary);
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn event(&mut self, step: u64, fill: impl FnOnce(&mut Message)) -> Result<(), LogError> {
        let mut event = Message::default();
        event.double(1, now_secs());
        if step > 0 {
            event.varint(2, step);
        }
        fill(&mut event);
        self.file.write_all(&record(&event.0)).map_err(LogError::write(&self.path))
    }
}

/// A file whose name sorts behind those before it; files of one second are told apart by a
/// number.
fn new_file(dir: &Path) -> Result<(PathBuf, File), LogError> {
    let seconds = now_secs() as u64;
    let mut number = 0_u32;
    loop {
        let name = format!("events.out.tfevents.{seconds:010}.puna.{number}");
        let path = dir.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(LogError::write(&path)(error)),
        }
    }
}

fn now_secs() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Bytes as a TFRecord.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(&masked_crc(bytes).to_le_bytes());
    out
}

/// CRC-32C, rotated and shifted so that a checksum of checksums is not weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(MASK_DELTA)
}

/// A protobuf message in the making. Fields have a number and a wire type: 0 varint, 1 eight
/// bytes, 2 length and bytes, 5 four bytes.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a file, their checksums checked.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&bytes[..8]));
            let data = &bytes[12..12 + length];
            assert_eq!(crc(12 + length), masked_crc(data));
            found.push(data.to_vec());
            bytes = &bytes[16 + length..];
        }
        found
    }

    /// An event behind its wall time (nine bytes), which no test can know.
    fn body(event: &[u8]) -> &[u8] {
        assert_eq!(event[0], 0x09);
        &event[9..]
    }

    #[test]
    fn the_checksum_is_the_castagnoli_one_and_masked_as_tensorflow_does() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // The first record of every event file: 24 bytes long.
        assert_eq!(masked_crc(&24_u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn scalars_are_events_that_tensorboard_reads() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&dir.path().join("tensorboard"), 0).unwrap();
        writer.scalars(300, &[("train/loss", 2.5), ("lr", 0.001)]).unwrap();
        let records = records(&std::fs::read(writer.path()).unwrap());
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].len(), 24);
        assert_eq!(body(&records[0]), b"\x1a\x0dbrain.Event:2");
        let expected = [
            b"\x10\xac\x02".as_slice(),
            b"\x2a\x1e",
            b"\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\x20\x40",
            b"\x0a\x09\x0a\x02lr\x15\x6f\x12\x83\x3a",
        ];
        assert_eq!(body(&records[1]), expected.concat());
    }

    #[test]
    fn a_continued_run_has_its_own_file_and_takes_back_later_steps() {
        let dir = tempfile::tempdir().unwrap();
        let first = EventWriter::create(dir.path(), 0).unwrap();
        let second = EventWriter::create(dir.path(), 5).unwrap();
        assert!(first.path() < second.path());
        let records = records(&std::fs::read(second.path()).unwrap());
        assert_eq!(body(&records[1]), b"\x10\x05\x3a\x02\x08\x01");
    }
}
