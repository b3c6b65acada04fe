//! Reads Python pickles as data: numbers, texts, bytes, lists, tuples, dicts, and numpy arrays, which come out as what
//! they were pickled from. Nothing is imported, called or executed: a function or class is a name, and what it would
//! be called with is kept with it.
//!
//! Every value is written once, into one table, and refers to others by their place in it: a value that is referred to
//! many times is not copied, and one nested a million deep needs no stack, to read or to free. Long bytes stay in the
//! input. Protocols 1 to 5 are read as far as `pickle.dumps` makes them of such data and `torch.save` of tensors (opcodes:
//! Python's `pickletools`).

use std::collections::HashMap;

/// The place of a value in its [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u32);

/// A value. Values within refer to the [`Pickle`] they are part of.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// A whole number of up to 64 bits.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// Bytes; also the texts of Python 2.
    Bytes(&'a [u8]),
    /// `[…]`, and sets.
    List(Vec<Id>),
    /// `(…)`
    Tuple(Vec<Id>),
    /// `{…}` as it was filled: keys and values, a later entry of a key after an earlier one.
    Dict(Vec<(Id, Id)>),
    /// The name of a function or class.
    Global(&'a str, &'a str),
    /// What a function or class was to be called with, and the state it was to be given.
    Object {
        /// What would have been called.
        callable: Id,
        /// Its arguments, a tuple.
        arguments: Id,
        /// The state of the result.
        state: Option<Id>,
    },
    /// What the program that saved it keeps outside the pickle, by a name of its own: a storage of torch.
    Persistent(Id),
}

/// Most values of a pickle, and most entries of its memo: what a list of all pictures of a large data set needs, many
/// times over. A value takes 60 times the byte that a hostile pickle spends on it.
const MAX_VALUES: usize = 1 << 22;

/// A pickle that has been read.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the beginning of `bytes`, and says how many bytes it has.
    ///
    /// # Errors
    /// An opcode that data do not need, an end before the end mark, a stack that does not fit.
    pub fn read(bytes: &'a [u8]) -> Result<(Self, usize), String> {
        let mut machine = Machine {
            input: bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        loop {
            let at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok((Self { values: machine.values, root }, machine.at)),
                Err(problem) => return Err(format!("pickle, byte {at}: {problem}")),
            }
        }
    }

    /// All values, in the order in which they were written.
    pub fn values(&self) -> impl Iterator<Item = &Value<'a>> {
        self.values.iter()
    }

    /// The value that was pickled.
    pub fn root(&self) -> &Value<'a> {
        self.value(self.root)
    }

    /// A value.
    pub fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    /// The value of a key of a dict: of several the last, as Python has it. Keys may be texts or bytes.
    pub fn get(&self, dict: &Value<'a>, key: &str) -> Option<&Value<'a>> {
        let Value::Dict(entries) = dict else { return None };
        let is = |id: Id| match self.value(id) {
            Value::Text(text) => *text == key,
            Value::Bytes(bytes) => *bytes == key.as_bytes(),
            _ => false,
        };
        entries.iter().rev().find(|(id, _)| is(*id)).map(|(_, value)| self.value(*value))
    }

    /// The values of a list or tuple.
    pub fn items<'s>(&'s self, value: &'s Value<'a>) -> Option<impl ExactSizeIterator<Item = &'s Value<'a>>> {
        match value {
            Value::List(items) | Value::Tuple(items) => Some(items.iter().map(|id| self.value(*id))),
            _ => None,
        }
    }
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which marks stand.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// One opcode; the result at the end mark.
    fn step(&mut self) -> Result<Option<Id>, String> {
        let op = self.take(1)?[0];
        match op {
            // Protocol and frames tell only how the rest was written.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => {
                let root = self.pop()?;
                return if self.stack.is_empty() && self.marks.is_empty() {
                    Ok(Some(root))
                } else {
                    Err("values are left over at its end".to_owned())
                };
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => self.int(1, false)?,
            b'M' => self.int(2, false)?,
            b'J' => self.int(4, true)?,
            0x8a => {
                let length = self.take(1)?[0];
                self.long(u64::from(length))?;
            }
            0x8b => {
                let length = self.number(4)?;
                self.long(length)?;
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let value = match (op, line) {
                    (b'I', "00") => Value::Bool(false),
                    (b'I', "01") => Value::Bool(true),
                    _ => Value::Int(line.trim_end_matches('L').parse().map_err(|_| "no whole number")?),
                };
                self.push(value)?;
            }
            b'G' => {
                let bytes = self.take(8)?.try_into().unwrap_or_default();
                self.push(Value::Float(f64::from_be_bytes(bytes)))?;
            }
            // Texts and bytes, by the width of their length.
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' | b'U' => self.bytes(1)?,
            b'B' | b'T' => self.bytes(4)?,
            0x8e | 0x96 => self.bytes(8)?,
            b']' | 0x8f => self.push(Value::List(Vec::new()))?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            b'2' => {
                let top = *self.stack.last().ok_or("nothing to repeat")?;
                self.stack.push(top);
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.append(&items)?;
            }
            b'l' | 0x91 => {
                let items = self.marked()?;
                self.push(Value::List(items))?;
            }
            b't' => {
                let items = self.marked()?;
                self.push(Value::Tuple(items))?;
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..op {
                    items.insert(0, self.pop()?);
                }
                self.push(Value::Tuple(items))?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            b'd' => {
                let items = self.marked()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(module, name))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module.0 as usize], &self.values[name.0 as usize]) {
                    (Value::Text(module), Value::Text(name)) => self.push(Value::Global(module, name))?,
                    _ => return Err("a class without a name".to_owned()),
                }
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let value = self.dict(callable, arguments);
                self.push(value.unwrap_or(Value::Object { callable, arguments, state: None }))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }
            b'b' => {
                let given = self.pop()?;
                match self.top()? {
                    Value::Object { state, .. } => *state = Some(given),
                    // Attributes of a dict of a kind of its own, such as torch's `_metadata`.
                    Value::Dict(_) => {}
                    _ => return Err("a state for what is not an object".to_owned()),
                }
            }
            b'q' | b'r' => {
                let key = self.number(if op == b'q' { 1 } else { 4 })?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' | b'j' => {
                let key = self.number(if op == b'h' { 1 } else { 4 })?;
                self.recall(key)?;
            }
            other => return Err(format!("opcode 0x{other:02x} is not for data; nothing was executed")),
        }
        Ok(None)
    }

    /// Python's dicts of other kinds, with the pairs that they are called with; nothing for other calls.
    fn dict(&self, callable: Id, arguments: Id) -> Option<Value<'a>> {
        let value = |id: Id| &self.values[id.0 as usize];
        let items = |id: Id| match value(id) {
            Value::List(items) | Value::Tuple(items) => Some(items.as_slice()),
            _ => None,
        };
        match value(callable) {
            Value::Global("collections", "OrderedDict") => {
                let pairs = items(arguments)?.first().map_or(Some(&[][..]), |pairs| items(*pairs))?;
                let pair = |id: &Id| match items(*id)? {
                    [key, value] => Some((*key, *value)),
                    _ => None,
                };
                pairs.iter().map(pair).collect::<Option<_>>().map(Value::Dict)
            }
            Value::Global("collections", "defaultdict") => Some(Value::Dict(Vec::new())),
            _ => None,
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end =
            self.at.checked_add(length).filter(|end| *end <= self.input.len()).ok_or("it ends early")?;
        let taken = &self.input[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number(&mut self, width: usize) -> Result<u64, String> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.input[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("it ends early")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| "a line is not UTF-8".to_owned())
    }

    fn int(&mut self, width: usize, signed: bool) -> Result<(), String> {
        let value = self.number(width)?;
        self.push(Value::Int(if signed { i64::from(value as u32 as i32) } else { value as i64 }))
    }

    /// A number of any length, least byte first, in two's complement.
    fn long(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        if bytes.len() > 8 {
            return Err("a whole number of more than 64 bits".to_owned());
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(whole)))
    }

    fn text(&mut self, width: usize) -> Result<(), String> {
        let length = self.number(width)?;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        let text = std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
        self.push(Value::Text(text))
    }

    fn bytes(&mut self, width: usize) -> Result<(), String> {
        let length = self.number(width)?;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        self.push(Value::Bytes(bytes))
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.values.len() >= MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        let id = self.values.len() as u32;
        self.values.push(value);
        self.stack.push(Id(id));
        Ok(())
    }

    /// What is on the stack above the last mark stays below it: nothing is taken from under a mark.
    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("a value is missing".to_owned());
        }
        self.stack.pop().ok_or_else(|| "a value is missing".to_owned())
    }

    fn marked(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top(&mut self) -> Result<&mut Value<'a>, String> {
        let id = *self.stack.last().ok_or("a value is missing")?;
        Ok(&mut self.values[id.0 as usize])
    }

    fn append(&mut self, items: &[Id]) -> Result<(), String> {
        match self.top()? {
            Value::List(list) => list.extend(items),
            _ => return Err("items for what is not a list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let Value::Dict(entries) = self.top()? else {
            return Err("entries for what is not a dict".to_owned());
        };
        if !items.len().is_multiple_of(2) {
            return Err("a key without a value".to_owned());
        }
        entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let id = *self.stack.last().ok_or("a value is missing")?;
        self.memo.insert(key, id);
        if self.memo.len() > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values to refer to"));
        }
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or("a reference to nothing")?;
        self.stack.push(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
