//! The Python names a checkpoint may use.

use crate::Dtype;

/// A Python global that the unpickler knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    Size,
    Device,
    Storage(Element),
    Dtype(Element),
}

/// What a storage or tensor is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    /// Elements of a type puna reads.
    Plain(Dtype),
    /// Bytes of an untyped storage, counted in bytes.
    Bytes,
    /// A type torch has and puna does not, by torch's name.
    Unsupported(&'static str),
}

impl Element {
    /// Bytes per element; `None` for an unsupported type.
    pub(crate) fn size(self) -> Option<usize> {
        match self {
            Self::Plain(dtype) => Some(dtype.block_bytes()),
            Self::Bytes => Some(1),
            Self::Unsupported(_) => None,
        }
    }
}

impl Global {
    /// The global of that module and name; `None` if puna does not build it.
    pub(crate) fn parse(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensorV2),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTensorV3),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Some(Self::RebuildParameter)
            }
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") => Some(Self::Device),
            ("torch.storage", "UntypedStorage" | "_UntypedStorage")
            | ("torch", "UntypedStorage") => Some(Self::Storage(Element::Bytes)),
            ("torch" | "torch.cuda", name) => TYPES.iter().find_map(|t| {
                if name == t.storage {
                    Some(Self::Storage(t.element))
                } else if module == "torch" && name == t.dtype {
                    Some(Self::Dtype(t.element))
                } else {
                    None
                }
            }),
            _ => None,
        }
    }
}

/// The storage class of a type, for writing; `None` where torch has none.
pub(crate) fn storage_class(dtype: Dtype) -> Option<&'static str> {
    TYPES
        .iter()
        .find(|t| t.element == Element::Plain(dtype) && !t.storage.is_empty())
        .map(|t| t.storage)
}

struct TorchType {
    storage: &'static str,
    dtype: &'static str,
    element: Element,
}

const fn plain(storage: &'static str, dtype: &'static str, element: Dtype) -> TorchType {
    TorchType { storage, dtype, element: Element::Plain(element) }
}

const fn other(storage: &'static str, dtype: &'static str) -> TorchType {
    TorchType { storage, dtype, element: Element::Unsupported(dtype) }
}

/// Types without a storage class have an untyped storage and `_rebuild_tensor_v3`.
const TYPES: [TorchType; 21] = [
    plain("DoubleStorage", "float64", Dtype::F64),
    plain("FloatStorage", "float32", Dtype::F32),
    plain("HalfStorage", "float16", Dtype::F16),
    plain("BFloat16Storage", "bfloat16", Dtype::BF16),
    plain("LongStorage", "int64", Dtype::I64),
    plain("IntStorage", "int32", Dtype::I32),
    plain("ShortStorage", "int16", Dtype::I16),
    plain("CharStorage", "int8", Dtype::I8),
    plain("ByteStorage", "uint8", Dtype::U8),
    plain("BoolStorage", "bool", Dtype::Bool),
    plain("", "float8_e4m3fn", Dtype::F8E4M3),
    plain("", "float8_e5m2", Dtype::F8E5M2),
    plain("", "uint16", Dtype::U16),
    plain("", "uint32", Dtype::U32),
    plain("", "uint64", Dtype::U64),
    other("ComplexFloatStorage", "complex64"),
    other("ComplexDoubleStorage", "complex128"),
    other("QInt8Storage", "qint8"),
    other("QUInt8Storage", "quint8"),
    other("QInt32Storage", "qint32"),
    other("QUInt4x2Storage", "quint4x2"),
];
