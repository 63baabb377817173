//! The stack machine: opcodes of protocols 2 to 4.

use std::collections::HashMap;
use std::path::Path;

use super::{
    Global, MAX_INSTRUCTIONS, MAX_OBJECTS, MAX_PICKLE_BYTES, MAX_STACK, Object, Unpickled, Value,
};
use crate::IoError;

/// One run over one pickle.
pub(super) struct Machine<'a, 'p> {
    pub(super) path: &'p Path,
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Stack heights at open MARKs.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    pub(super) objects: Vec<Object<'a>>,
    /// Items copied from a container into another.
    copied: usize,
}

/// What one instruction leads to.
enum Next {
    Go,
    Stop,
}

impl<'a, 'p> Machine<'a, 'p> {
    pub(super) fn new(path: &'p Path, bytes: &'a [u8]) -> Self {
        let (stack, marks, memo, objects) = Default::default();
        Self { path, bytes, at: 0, stack, marks, memo, objects, copied: 0 }
    }

    pub(super) fn run(mut self) -> Result<Unpickled<'a>, IoError> {
        for _ in 0..MAX_INSTRUCTIONS {
            if let Next::Stop = self.step()? {
                let top = self.pop()?;
                return Ok(Unpickled { top, objects: self.objects, consumed: self.at });
            }
        }
        Err(self.limit("the number of pickle instructions", MAX_INSTRUCTIONS))
    }

    fn step(&mut self) -> Result<Next, IoError> {
        let start = self.at;
        let opcode = self.byte()?;
        match opcode {
            b'.' => return Ok(Next::Stop),
            0x80 => self.protocol()?,
            0x95 => drop(self.take(8)?), // FRAME: a hint for readers of streams
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.pop()?;
                self.push(top)?;
                self.push(top)?;
            }
            b'q' | b'r' | 0x94 => self.put(opcode)?,
            b'h' | b'j' => self.get(opcode)?,
            b'N' | 0x88 | 0x89 | b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b => self.scalar(opcode)?,
            b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | b'T' | b'U' => self.text(opcode)?,
            b')' | 0x85 | 0x86 | 0x87 | b't' | b']' | b'}' | b'l' | b'd' => {
                self.container(opcode)?;
            }
            b'a' | b'e' | b's' | b'u' => self.extend(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let built = self.call(callee, arguments)?;
                self.push(built)?;
            }
            // BUILD gives an object attributes (a state dict's `_metadata`): nothing to keep.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push_object(Object::Storage(storage))?;
            }
            _ => {
                let got = format!("the opcode {:#04x} at byte {start}", opcode);
                return Err(self.invalid("an opcode of a state dict", got));
            }
        }
        Ok(Next::Go)
    }

    fn protocol(&mut self) -> Result<(), IoError> {
        match self.byte()? {
            2..=4 => Ok(()),
            n => Err(self.invalid("pickle protocol 2, 3 or 4", n)),
        }
    }

    fn mark(&mut self) -> Result<(), IoError> {
        if self.marks.len() >= MAX_STACK {
            return Err(self.limit("the depth of the pickle's stack", MAX_STACK));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn put(&mut self, opcode: u8) -> Result<(), IoError> {
        let index = match opcode {
            b'q' => u32::from(self.byte()?),
            b'r' => self.u32()?,
            _ => self.memo.len() as u32, // bounded by the number of instructions
        };
        let top = self.pop()?;
        self.push(top)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<(), IoError> {
        let index = if opcode == b'h' { u32::from(self.byte()?) } else { self.u32()? };
        match self.memo.get(&index) {
            Some(&value) => self.push(value),
            None => Err(self.invalid("a memo entry that was put before", index)),
        }
    }

    fn scalar(&mut self, opcode: u8) -> Result<(), IoError> {
        let value = match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i64::from(self.u32()? as i32)),
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            b'G' => {
                self.take(8)?;
                Value::Float
            }
            _ => {
                let len = if opcode == 0x8a { usize::from(self.byte()?) } else { self.len32()? };
                let bytes = self.take(len)?;
                let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
                let mut word = [sign; 8];
                let low = len.min(8);
                word[..low].copy_from_slice(&bytes[..low]);
                // What lies beyond the word may only repeat its sign.
                let top = if word[7] & 0x80 != 0 { 0xff } else { 0 };
                if bytes[low..].iter().any(|&b| b != top) {
                    return self.push_object(Object::Long(bytes));
                }
                Value::Int(i64::from_le_bytes(word))
            }
        };
        self.push(value)
    }

    fn text(&mut self, opcode: u8) -> Result<(), IoError> {
        let len = match opcode {
            0x8c | b'C' | b'U' => usize::from(self.byte()?),
            b'X' | b'B' | b'T' => self.len32()?,
            _ => usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX),
        };
        let bytes = self.take(len)?;
        if matches!(opcode, b'B' | b'C' | 0x8e) {
            return self.push_object(Object::Bytes);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push_object(Object::Str(text)),
            Err(_) => Err(self.invalid("UTF-8 text", "other bytes")),
        }
    }

    fn container(&mut self, opcode: u8) -> Result<(), IoError> {
        let object = match opcode {
            b')' => Object::Tuple(Vec::new()),
            0x85..=0x87 => {
                let first = self.available(usize::from(opcode - 0x84))?;
                Object::Tuple(self.stack.split_off(first))
            }
            b't' => Object::Tuple(self.pop_to_mark()?),
            b']' => Object::List(Vec::new()),
            b'l' => Object::List(self.pop_to_mark()?),
            b'}' => Object::Dict(Vec::new()),
            _ => {
                let items = self.pop_to_mark()?;
                Object::Dict(self.pairs(&items)?)
            }
        };
        self.push_object(object)
    }

    fn extend(&mut self, opcode: u8) -> Result<(), IoError> {
        let items = match opcode {
            b'a' => {
                let first = self.available(1)?;
                self.stack.split_off(first)
            }
            b's' => {
                let first = self.available(2)?;
                self.stack.split_off(first)
            }
            _ => self.pop_to_mark()?,
        };
        let target = self.pop()?;
        self.push(target)?;
        let is_list = matches!(opcode, b'a' | b'e');
        let pairs = if is_list { Vec::new() } else { self.pairs(&items)? };
        match (target, is_list) {
            (Value::Object(index), true) => {
                if let Some(Object::List(list)) = self.objects.get_mut(index) {
                    list.extend(items);
                    return Ok(());
                }
            }
            (Value::Object(index), false) => {
                if let Some(Object::Dict(dict)) = self.objects.get_mut(index) {
                    dict.extend(pairs);
                    return Ok(());
                }
            }
            _ => {}
        }
        Err(self.invalid("a list or dict to add to", "something else"))
    }

    fn pairs(&self, items: &[Value]) -> Result<Vec<(Value, Value)>, IoError> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.invalid("keys with values", "an odd number of items"));
        }
        Ok(pairs.iter().map(|&[k, v]| (k, v)).collect())
    }

    fn global(&mut self, opcode: u8) -> Result<(), IoError> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (self.str(module), self.str(name)) {
                (Some(module), Some(name)) => (module, name),
                _ => return Err(self.invalid("the name of a global", "something else")),
            }
        };
        match Global::parse(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(IoError::ForbiddenPickle {
                path: self.path.to_path_buf(),
                global: format!("{module}.{name}"),
            }),
        }
    }

    // Stack.

    fn push(&mut self, value: Value) -> Result<(), IoError> {
        if self.stack.len() >= MAX_STACK {
            return Err(self.limit("the depth of the pickle's stack", MAX_STACK));
        }
        self.stack.push(value);
        Ok(())
    }

    fn push_object(&mut self, object: Object<'a>) -> Result<(), IoError> {
        let value = self.add(object)?;
        self.push(value)
    }

    /// Puts an object into the arena.
    pub(super) fn add(&mut self, object: Object<'a>) -> Result<Value, IoError> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(self.limit("the number of objects in the pickle", MAX_OBJECTS));
        }
        self.objects.push(object);
        Ok(Value::Object(self.objects.len() - 1))
    }

    /// Counts items that a call copies, which no input byte pays for.
    pub(super) fn count_copies(&mut self, items: usize) -> Result<(), IoError> {
        self.copied += items;
        if self.copied > MAX_OBJECTS {
            return Err(self.limit("the number of objects in the pickle", MAX_OBJECTS));
        }
        Ok(())
    }

    /// The index of the first of the top `n` values, which must lie above the last MARK.
    fn available(&self, n: usize) -> Result<usize, IoError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack
            .len()
            .checked_sub(n)
            .filter(|&first| first >= floor)
            .ok_or_else(|| self.invalid("a value on the stack", "an empty stack"))
    }

    fn pop(&mut self) -> Result<Value, IoError> {
        let first = self.available(1)?;
        let value = self.stack[first];
        self.stack.truncate(first);
        Ok(value)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, IoError> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => Err(self.invalid("a mark on the stack", "none")),
        }
    }

    // Input.

    fn take(&mut self, len: usize) -> Result<&'a [u8], IoError> {
        let rest = &self.bytes[self.at..];
        if len > rest.len() {
            if self.bytes.len() == MAX_PICKLE_BYTES {
                return Err(self.limit("the pickle's length", MAX_PICKLE_BYTES));
            }
            let got = format!("the end of the pickle {} bytes on", rest.len());
            return Err(self.invalid(format!("{len} bytes at {}", self.at), got));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IoError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, IoError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, IoError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn len32(&mut self) -> Result<usize, IoError> {
        Ok(self.u32()? as usize)
    }

    fn line(&mut self) -> Result<&'a str, IoError> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|&b| b == b'\n') else {
            return Err(self.invalid("a line with the name of a global", "no end of line"));
        };
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.invalid("UTF-8 text", "other bytes"))
    }

    // Errors.

    pub(super) fn invalid(&self, expected: impl ToString, got: impl ToString) -> IoError {
        IoError::invalid(self.path, "pickle", expected, got)
    }

    fn limit(&self, at: &str, limit: usize) -> IoError {
        let limit = limit as u64;
        IoError::Limit { path: self.path.to_path_buf(), at: at.to_owned(), limit, got: limit + 1 }
    }
}
