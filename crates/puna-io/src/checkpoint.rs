//! One door to a model's weights, whatever holds them.
//!
//! A folder is searched by ranks: the names of published checkpoints first, in Transformers'
//! order, then a single file with any other name (the table is in `checkpoint/find.rs`). Two
//! candidates of the same rank are an error that lists them, never a guess.

mod find;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::gguf::Gguf;
use crate::meta::MetaFolder;
use crate::pytorch::PyTorchFile;
use crate::safetensors::SafetensorsFile;
use crate::shard_index::ShardIndex;
use crate::tensor_file::TensorFile;
use crate::{IoError, StoredTensor, TensorInfo};
use find::Found;

/// The kind of files that hold a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// `*.safetensors`, one or with an index.
    Safetensors,
    /// Files of `torch.save`, one or with an index.
    PyTorch,
    /// `params.json` and `consolidated.NN.pth`.
    Meta,
    /// GGUF, one file or split.
    Gguf,
}

/// A checkpoint on disk in any container, tensors under the names its files use.
///
/// # Examples
/// ```no_run
/// let checkpoint = puna_io::Checkpoint::open("models/llama".as_ref())?;
/// for name in checkpoint.names() {
///     println!("{name}: {:?}", checkpoint.info(name));
/// }
/// # Ok::<(), puna_io::IoError>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    root: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Files { container: Container, files: Vec<TensorFile>, by_name: BTreeMap<String, usize> },
    Meta(MetaFolder),
    Gguf(Box<Gguf>),
}

impl Checkpoint {
    /// Opens a folder, a file, or any shard of a sharded checkpoint, and checks all headers.
    ///
    /// # Errors
    /// There is no checkpoint, or several; a shard is missing or does not hold what the index
    /// says; a file is broken (see the readers of each format).
    pub fn open(path: &Path) -> Result<Self, IoError> {
        let found = find::find(path)?;
        let root = found.root().to_path_buf();
        let source = match found {
            Found::Safetensors(file) => single(
                Container::Safetensors,
                TensorFile::Safetensors(SafetensorsFile::open(&file)?),
            ),
            Found::PyTorch(file) => {
                single(Container::PyTorch, TensorFile::PyTorch(PyTorchFile::open(&file)?))
            }
            Found::SafetensorsIndex(index) => sharded(Container::Safetensors, &index)?,
            Found::PyTorchIndex(index) => sharded(Container::PyTorch, &index)?,
            Found::Meta(dir) => Source::Meta(MetaFolder::open(&dir)?),
            Found::Gguf(path) => Source::Gguf(Box::new(Gguf::open(&path)?)),
        };
        Ok(Self { root, source })
    }

    /// Takes a GGUF that is open already, as the one inside the program is; its root is the
    /// folder of its path.
    pub fn from_gguf(gguf: Gguf) -> Self {
        let root = gguf.path().parent().map(Path::to_path_buf).unwrap_or_default();
        Self { root, source: Source::Gguf(Box::new(gguf)) }
    }

    /// The GGUF with its metadata, if the container is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf(gguf) => Some(gguf),
            Source::Files { .. } | Source::Meta(_) => None,
        }
    }

    /// The kind of files.
    pub fn container(&self) -> Container {
        match &self.source {
            Source::Files { container, .. } => *container,
            Source::Meta(_) => Container::Meta,
            Source::Gguf(_) => Container::Gguf,
        }
    }

    /// The folder with the files; configuration and tokenizer lie there too.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The files that hold tensors.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.source {
            Source::Files { files, .. } => files.iter().map(|f| f.path().to_path_buf()).collect(),
            Source::Meta(meta) => meta.files().map(Path::to_path_buf).collect(),
            Source::Gguf(gguf) => gguf.files(),
        }
    }

    /// Starts reading all files into the system's cache, one after the other, on a thread of its own; for
    /// who is about to use most of their tensors and has the memory. A file that cannot be read makes
    /// first touches slower, nothing else.
    ///
    /// One long read is what systems read ahead of in their largest steps: 1.2 GB in 0.66 to 0.88 s and
    /// 0.04 s of the system's time, asked for in ranges (`MADV_WILLNEED`) in 0.77 to 1.14 and 0.17 to 0.25.
    /// `/dev/null` has nothing copied on Linux (`sendfile`), and pages that nobody touches do not count as
    /// this process's memory.
    pub fn read_ahead(&self) {
        let files = self.files();
        let read = move || {
            let Ok(mut nowhere) = File::options().write(true).open("/dev/null") else { return };
            for mut file in files.iter().filter_map(|path| File::open(path).ok()) {
                let _read = std::io::copy(&mut file, &mut nowhere);
            }
        };
        drop(std::thread::Builder::new().name("read-ahead".to_owned()).spawn(read));
    }

    /// Sum of the sizes of [`Checkpoint::files`]; a file removed meanwhile counts nothing, a GGUF
    /// inside the program counts as a file.
    pub fn bytes_on_disk(&self) -> u64 {
        if let Source::Gguf(gguf) = &self.source {
            return gguf.bytes_len();
        }
        self.files().iter().filter_map(|f| std::fs::metadata(f).ok()).map(|m| m.len()).sum()
    }

    /// Names of all tensors, as the files have them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names: Box<dyn Iterator<Item = &str>> = match &self.source {
            Source::Files { by_name, .. } => Box::new(by_name.keys().map(String::as_str)),
            Source::Meta(meta) => Box::new(meta.names()),
            Source::Gguf(gguf) => Box::new(gguf.names()),
        };
        names
    }

    /// Type and shape of a tensor; of the whole one where the files split it.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        match &self.source {
            Source::Files { files, by_name, .. } => files[*by_name.get(name)?].info(name),
            Source::Meta(meta) => meta.info(name),
            Source::Gguf(gguf) => gguf.info(name),
        }
    }

    /// A tensor's contiguous row-major bytes: mapped where the file has them so, else copied.
    /// Mapped bytes lie at any address; no alignment is promised.
    ///
    /// # Errors
    /// There is no such tensor, or its parts contradict each other.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor, IoError> {
        match &self.source {
            Source::Files { files, by_name, .. } => match by_name.get(name) {
                Some(&file) => files[file].tensor(name),
                None => {
                    Err(IoError::MissingTensor { path: self.root.clone(), tensor: name.to_owned() })
                }
            },
            Source::Meta(meta) => meta.tensor(name),
            Source::Gguf(gguf) => gguf.tensor(name),
        }
    }
}

fn single(container: Container, file: TensorFile) -> Source {
    let by_name = file.names().map(|name| (name.to_owned(), 0)).collect();
    Source::Files { container, files: vec![file], by_name }
}

/// Opens the shards of an index; index and shards must name the same tensors.
fn sharded(container: Container, index: &Path) -> Result<Source, IoError> {
    let index = ShardIndex::open(index)?;
    let mut files = Vec::new();
    let mut by_name = BTreeMap::new();
    for (number, (path, names)) in index.shards.into_iter().enumerate() {
        let file = match container {
            Container::PyTorch => TensorFile::PyTorch(PyTorchFile::open(&path)?),
            _ => TensorFile::Safetensors(SafetensorsFile::open(&path)?),
        };
        if let Some(name) = names.iter().find(|n| file.info(n).is_none()) {
            return Err(IoError::MissingTensor { path, tensor: name.clone() });
        }
        for name in names {
            by_name.insert(name, number);
        }
        if let Some(name) = file.names().find(|n| by_name.get(*n) != Some(&number)) {
            let expected = "a tensor that the index puts into this shard";
            return Err(IoError::tensor(&path, name, expected, "one that it does not"));
        }
        files.push(file);
    }
    Ok(Source::Files { container, files, by_name })
}
