//! Foreign bytes: every damaged file is an error that names it, never a panic.
//!
//! Truncations and flipped bits are tried all over small files of each format; a flip may well
//! leave a sound file (another weight, another name), so what is asked is only that nothing
//! panics and that what opens can be read whole.

use std::fs;
use std::path::{Path, PathBuf};

use puna_io::{Checkpoint, IoError};

use crate::support::golden;

/// Opens a checkpoint and reads all of it.
fn read_all(path: &Path) -> Result<usize, IoError> {
    let checkpoint = Checkpoint::open(path)?;
    let mut bytes = 0;
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name)?;
        assert_eq!(Some(tensor.bytes.len()), tensor.info.byte_len(), "{name}");
        bytes += tensor.bytes.len();
    }
    Ok(bytes)
}

/// A golden case in a folder that may be damaged.
fn copy(case: &str) -> Option<tempfile::TempDir> {
    let from = golden(case)?;
    let to = tempfile::tempdir().expect("temp");
    for entry in fs::read_dir(from).expect("listable") {
        let path = entry.expect("entry").path();
        fs::copy(&path, to.path().join(path.file_name().expect("name"))).expect("copy");
    }
    Some(to)
}

/// One file per format, each with the folder it needs around it.
const FILES: [(&str, &str); 5] = [
    ("text/llama2-gqa", "model.safetensors"),
    ("layout/safetensors-sharded", "model.safetensors.index.json"),
    ("layout/pytorch-tied-views", "pytorch_model.bin"),
    ("layout/pytorch-legacy", "pytorch_model.bin"),
    ("layout/meta-mp2", "consolidated.01.pth"),
];

#[test]
fn truncated_files_are_errors_that_name_the_file() {
    for (case, file) in FILES {
        let Some(dir) = copy(case) else { return };
        let path = dir.path().join(file);
        let whole = fs::read(&path).expect("read");
        assert!(read_all(dir.path()).is_ok(), "{case} is sound before");
        let early = (0..whole.len().min(64)).step_by(3);
        let spread = (0..whole.len()).step_by(whole.len() / 40 + 1);
        for end in early.chain(spread).chain([whole.len() - 3]) {
            fs::write(&path, &whole[..end]).expect("write");
            let error = read_all(dir.path()).expect_err("truncated");
            assert!(error.to_string().contains(file), "{case} at {end}: {error}");
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    for (case, file) in FILES {
        let Some(dir) = copy(case) else { return };
        let path = dir.path().join(file);
        let whole = fs::read(&path).expect("read");
        // Headers and directories are at the ends; weights in between say nothing.
        let ends = (0..whole.len().min(1500)).chain(whole.len().saturating_sub(1500)..whole.len());
        for (number, at) in ends.enumerate().step_by(5) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (number % 8);
            fs::write(&path, damaged).expect("write");
            if let Err(error) = read_all(dir.path()) {
                assert!(error.to_string().contains(&*dir.path().to_string_lossy()), "{error}");
            }
        }
    }
}

fn write_safetensors(path: &Path, header: &str, data: usize) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    fs::write(path, bytes).expect("write");
}

/// A folder with two shards and their index.
fn sharded(index: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp");
    for (file, tensor) in [("one.safetensors", "a"), ("two.safetensors", "b")] {
        let header = format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}}}"#);
        write_safetensors(&dir.path().join(file), &header, 2);
    }
    fs::write(dir.path().join("model.safetensors.index.json"), index).expect("write");
    dir
}

fn message(dir: &tempfile::TempDir) -> String {
    read_all(dir.path()).expect_err("broken").to_string()
}

#[test]
fn an_index_that_contradicts_its_shards_names_file_and_tensor() {
    let sound = sharded(r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#);
    assert_eq!(read_all(sound.path()).expect("sound"), 4);
    let gone = sharded(r#"{"weight_map":{"a":"one.safetensors","b":"three.safetensors"}}"#);
    let text = message(&gone);
    assert!(text.contains("three.safetensors: missing"), "{text}");
    assert!(text.contains("index.json refers to it"), "{text}");
    let swapped = sharded(r#"{"weight_map":{"a":"two.safetensors","b":"two.safetensors"}}"#);
    let text = message(&swapped);
    assert!(text.contains("two.safetensors: there is no tensor `a`"), "{text}");
    let extra = sharded(
        r#"{"weight_map":{"a":"one.safetensors","c":"one.safetensors","b":"two.safetensors"}}"#,
    );
    assert!(message(&extra).contains("`c`"));
    let unlisted = sharded(r#"{"weight_map":{"a":"one.safetensors"}}"#);
    assert_eq!(read_all(unlisted.path()).expect("the other file is not part of it"), 2);
    let header = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                     "z":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#;
    write_safetensors(&sound.path().join("one.safetensors"), header, 4);
    let text = message(&sound);
    assert!(text.contains("one.safetensors") && text.contains("tensor `z`"), "{text}");
    for outside in ["../one.safetensors", "/etc/passwd", "a/../one.safetensors"] {
        let dir = sharded(&format!(r#"{{"weight_map":{{"a":"{outside}"}}}}"#));
        assert!(message(&dir).contains("beside the index"));
    }
    assert!(message(&sharded("{}")).contains("weight_map"));
    assert!(message(&sharded(r#"{"weight_map":{}}"#)).contains("at least one tensor"));
}

/// A zip archive of torch with the given pickle and one storage of `storage` bytes.
fn torch_file(pickle: &[u8], storage: usize, method: zip::CompressionMethod) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, contents) in
        [("m/data.pkl", pickle), ("m/data/0", &vec![7; storage][..]), ("m/byteorder", b"little")]
    {
        zip.start_file(name, options).expect("start");
        zip.write_all(contents).expect("write");
    }
    zip.finish().expect("finish").into_inner()
}

/// The pickle of `{"w": tensor}` over a storage of four floats.
fn tensor_pickle(offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    pickle.extend_from_slice(b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000");
    pickle.extend_from_slice(b"X\x03\0\0\0cpuK\x04tQK");
    pickle.push(offset);
    for axes in [shape, strides] {
        pickle.push(b'(');
        axes.iter().for_each(|&n| pickle.extend_from_slice(&[b'K', n]));
        pickle.push(b't');
    }
    pickle.extend_from_slice(b"\x89NtRu.");
    pickle
}

fn open_torch(bytes: &[u8]) -> Result<usize, String> {
    let dir = tempfile::tempdir().expect("temp");
    let path: PathBuf = dir.path().join("pytorch_model.bin");
    fs::write(&path, bytes).expect("write");
    read_all(&path).map_err(|e| e.to_string())
}

#[test]
fn views_outside_their_storage_are_refused() {
    let stored = zip::CompressionMethod::Stored;
    let open = |offset, shape: &[u8], strides: &[u8], storage| {
        open_torch(&torch_file(&tensor_pickle(offset, shape, strides), storage, stored))
    };
    assert_eq!(open(0, &[2, 2], &[2, 1], 16), Ok(16));
    assert_eq!(open(0, &[2, 2], &[1, 2], 16), Ok(16));
    assert_eq!(open(1, &[3], &[1], 16), Ok(12));
    assert_eq!(open(0, &[0, 9], &[9, 1], 16), Ok(0));
    assert_eq!(open(0, &[], &[], 16), Ok(4));
    for (offset, shape, strides) in [
        (1, &[2, 2][..], &[2, 1][..]),
        (0, &[5], &[1]),
        (0, &[2, 2], &[3, 1]),
        (4, &[], &[]),
        (0, &[200, 200], &[0, 0]),
        (0, &[2, 2], &[1]),
    ] {
        let error = open(offset, shape, strides, 16).expect_err("outside");
        assert!(error.contains("pytorch_model.bin"), "{error}");
    }
    let short = open(0, &[2, 2], &[2, 1], 15).expect_err("short storage");
    assert!(short.contains("tensor `w`") && short.contains("15 bytes"), "{short}");
}

#[test]
fn a_checkpoint_that_calls_the_system_is_refused_by_name() {
    let evil = b"\x80\x02}X\x01\0\0\0wcos\nsystem\nX\x02\0\0\0id\x85Rs.";
    let zipped = torch_file(evil, 16, zip::CompressionMethod::Stored);
    let legacy =
        [&b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."[..], evil];
    for bytes in [zipped, legacy.concat()] {
        let error = open_torch(&bytes).expect_err("forbidden");
        assert!(error.contains("wants to call os.system"), "{error}");
    }
}

#[test]
fn archives_that_torch_does_not_write_are_refused() {
    let pickle = tensor_pickle(0, &[4], &[1]);
    let mut script = torch_file(&pickle, 16, zip::CompressionMethod::Stored);
    // "m/data.pkl" under another name, in the entry and in the directory.
    for at in 0..script.len() - 10 {
        if &script[at..at + 10] == b"m/data.pkl" {
            script[at..at + 10].copy_from_slice(b"m/code.pkl");
        }
    }
    assert!(open_torch(&script).expect_err("no data.pkl").contains("data.pkl"));
    let mut big = torch_file(&pickle, 16, zip::CompressionMethod::Stored);
    let at = big.windows(6).position(|w| w == b"little").expect("byteorder");
    big[at..at + 6].copy_from_slice(b"bigbig");
    assert!(open_torch(&big).expect_err("big endian").contains("byte order"));
    assert!(open_torch(b"PK\x03\x04").expect_err("empty").contains("archive"));
    assert!(open_torch(b"\x80\x02N.").expect_err("other").contains("magic number"));
    assert!(open_torch(b"hello world, no model").expect_err("text").contains("no checkpoint"));
    // Method 8 in every header: torch never compresses.
    let mut deflated = torch_file(&pickle, 16, zip::CompressionMethod::Stored);
    for (magic, offset) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let starts: Vec<usize> =
            (0..deflated.len() - 4).filter(|&i| &deflated[i..i + 4] == magic).collect();
        starts.iter().for_each(|i| deflated[i + offset] = 8);
    }
    assert!(open_torch(&deflated).expect_err("compressed").contains("compression"));
}

#[test]
fn shards_of_meta_that_disagree_are_refused() {
    let Some(dir) = copy("layout/meta-mp2") else { return };
    let second = dir.path().join("consolidated.01.pth");
    let whole = fs::read(&second).expect("read");
    fs::remove_file(&second).expect("remove");
    fs::write(dir.path().join("consolidated.02.pth"), &whole).expect("write");
    let error = read_all(dir.path()).expect_err("a gap").to_string();
    assert!(error.contains("consolidated.01.pth: missing"), "{error}");
    fs::remove_file(dir.path().join("consolidated.02.pth")).expect("remove");
    let Some(other) = golden("layout/meta") else { return };
    fs::copy(other.join("consolidated.00.pth"), &second).expect("copy");
    let error = read_all(dir.path()).expect_err("another degree").to_string();
    assert!(error.contains("consolidated.01.pth: tensor"), "{error}");
    assert!(error.contains("as in the first shard"), "{error}");
    // A norm that differs between shards: change one byte of its storage.
    let checkpoint = Checkpoint::open(&other).expect("sound");
    let norm = checkpoint.tensor("norm.weight").expect("norm").bytes.to_vec();
    let mut damaged = whole;
    let at = damaged.windows(norm.len()).position(|w| w == norm).expect("the norm is replicated");
    damaged[at] ^= 1;
    fs::write(&second, damaged).expect("write");
    let error = read_all(dir.path()).expect_err("norms differ").to_string();
    assert!(error.contains("norm.weight") && error.contains("the same values"), "{error}");
}
