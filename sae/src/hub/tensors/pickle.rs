//! What a PyTorch file's pickle describes, without running it: a small machine that knows the instructions for plain values,
//! containers, storages and tensors, and refuses every other callable by name. Values live in one list and refer to each other
//! by position, so that deep or circular data costs no stack.

use std::collections::HashMap;

/// Position of a value.
pub type Id = usize;

/// Most values and entries of containers in a file; real ones have some hundreds.
const MOST_VALUES: usize = 1 << 22;
/// Most arguments of a call.
const MOST_ARGUMENTS: usize = 16;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name`.
    Global(String),
    /// Elements in a member of the archive.
    Storage {
        member: String,
        kind: String,
        elements: usize,
    },
    Tensor {
        storage: Id,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    },
}

/// All values and which of them is the whole.
pub struct Pickled {
    pub nodes: Vec<Node>,
    pub root: Id,
}

impl Pickled {
    /// Interprets a pickle.
    ///
    /// # Errors
    /// What is unknown, out of place or cut short.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            entries: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run()?;
        Ok(Self { nodes: machine.nodes, root })
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// Entries of all containers.
    entries: usize,
    stack: Vec<Id>,
    /// Heights of the stack at marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let op = self.take(1)?[0];
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    fn step(&mut self, op: u8) -> Step<()> {
        match op {
            // Protocol and frames carry nothing.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'K' => self.number(1)?,
            b'M' => self.number(2)?,
            b'J' => {
                let v = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(v.into()))?;
            }
            0x8a => {
                let n = self.take(1)?[0] as usize;
                self.long(n)?;
            }
            b'G' => {
                let v = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(v))?;
            }
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'U' | b'C' => self.skip_bytes(1)?,
            b'T' | b'B' => self.skip_bytes(4)?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'2' => {
                let top = *self.stack.last().ok_or("an empty stack")?;
                self.stack.push(top);
            }
            b'q' => {
                let key = self.take(1)?[0];
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = self.take(1)?[0];
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(format!("{module}.{name}")))?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.push(Node::Global(format!("{module}.{name}")))?;
            }
            _ => return self.container(op),
        }
        Ok(())
    }

    /// Instructions that build containers and objects.
    fn container(&mut self, op: u8) -> Step<()> {
        match op {
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items))
            }
            b'l' => {
                let items = self.since_mark()?;
                self.push(Node::List(items))
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0..op - 0x84 {
                    items.insert(0, self.pop()?);
                }
                self.push(Node::Tuple(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(items)
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage)
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let made = self.call(callable, arguments)?;
                self.push(made)
            }
            // State of an ordered dictionary, such as the versions of modules in `_metadata`: nothing of it is needed.
            b'b' => {
                self.pop()?;
                let top = *self.stack.last().ok_or("an empty stack")?;
                match self.nodes[top] {
                    Node::Dict(_) => Ok(()),
                    _ => Err("state for something that is no dictionary".into()),
                }
            }
            _ => Err(format!("instruction 0x{op:02x}, which no file of tensors needs")),
        }
    }

    /// What a permitted callable makes of its arguments.
    fn call(&mut self, callable: Id, arguments: Id) -> Step<Node> {
        let (Node::Global(name), Node::Tuple(args)) = (&self.nodes[callable], &self.nodes[arguments]) else {
            return Err("a call of something that is no function".into());
        };
        if args.len() > MOST_ARGUMENTS {
            return Err(format!("a call with {} arguments", args.len()));
        }
        let args = args.clone();
        match name.as_str() {
            "collections.OrderedDict" => Ok(Node::Dict(match args[..] {
                [] => Vec::new(),
                [pairs] => self.pairs(pairs)?,
                _ => return Err("an ordered dictionary of several arguments".into()),
            })),
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => self.tensor(&args),
            // A parameter is its tensor.
            "torch._utils._rebuild_parameter" => match args.first() {
                Some(&id) if matches!(self.nodes[id], Node::Tensor { .. }) => Ok(self.nodes[id].clone()),
                _ => Err("a parameter without a tensor".into()),
            },
            "torch.Size" | "builtins.list" | "builtins.tuple" => match args.first() {
                Some(&id) => Ok(Node::Tuple(self.items(id)?)),
                None => Ok(Node::Tuple(Vec::new())),
            },
            "torch.device" => Ok(Node::None),
            other => Err(format!(
                "it wants to call {other}, which is no part of tensors in plain containers; refused, nothing was run"
            )),
        }
    }

    fn pairs(&self, id: Id) -> Step<Vec<(Id, Id)>> {
        let pair = |id: Id| match self.items(id)?[..] {
            [key, value] => Ok((key, value)),
            _ => Err("an entry that is no pair".into()),
        };
        self.items(id)?.into_iter().map(pair).collect()
    }

    fn items(&self, id: Id) -> Step<Vec<Id>> {
        match &self.nodes[id] {
            Node::Tuple(items) | Node::List(items) => Ok(items.clone()),
            _ => Err("a sequence that is none".into()),
        }
    }

    /// `("storage", type, member, device, elements)`.
    fn storage(&self, id: Id) -> Step<Node> {
        let items = self.items(id)?;
        let node = |i: usize| items.get(i).map(|&id| &self.nodes[id]);
        match (node(0), node(1), node(2), node(4)) {
            (
                Some(Node::Text(tag)),
                Some(Node::Global(kind)),
                Some(Node::Text(member)),
                Some(Node::Int(n)),
            ) if tag == "storage" => {
                let elements = usize::try_from(*n).map_err(|_| "a storage of negative size")?;
                Ok(Node::Storage { member: member.clone(), kind: kind.clone(), elements })
            }
            _ => Err("a reference to something that is no storage".into()),
        }
    }

    /// `(storage, offset, shape, strides, …)`.
    fn tensor(&self, args: &[Id]) -> Step<Node> {
        let [storage, offset, shape, strides, ..] = *args else {
            return Err("a tensor without a shape".into());
        };
        let Node::Storage { elements, .. } = self.nodes[storage] else {
            return Err("a tensor without a storage".into());
        };
        let number = |id: Id| match self.nodes[id] {
            Node::Int(n) => usize::try_from(n).map_err(|_| "a negative size".to_string()),
            _ => Err("a size that is no number".into()),
        };
        let numbers = |id: Id| self.items(id)?.into_iter().map(number).collect::<Step<Vec<usize>>>();
        let (offset, shape, strides) = (number(offset)?, numbers(shape)?, numbers(strides)?);
        let n = super::elements(&shape).filter(|n| *n <= elements && shape.len() == strides.len());
        // The last element there is must be in the storage.
        let last = shape.iter().zip(&strides).try_fold(offset, |at, (d, s)| {
            d.saturating_sub(1).checked_mul(*s).and_then(|step| at.checked_add(step))
        });
        match (n, last) {
            (Some(0), _) => Ok(Node::Tensor { storage, offset: 0, shape, strides }),
            (Some(_), Some(last)) if last < elements => Ok(Node::Tensor { storage, offset, shape, strides }),
            _ => Err(format!("a tensor of shape {shape:?} in a storage of {elements} elements")),
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Step<()> {
        let top = *self.stack.last().ok_or("an empty stack")?;
        match &mut self.nodes[top] {
            Node::List(list) => list.extend(items),
            _ => return Err("an entry for something that is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Id>) -> Step<()> {
        let top = *self.stack.last().ok_or("an empty stack")?;
        match &mut self.nodes[top] {
            Node::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|p| (p[0], p[1])))
            }
            _ => return Err("an entry for something that is no dictionary".into()),
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let piece = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)).ok_or("cut short")?;
        self.at += n;
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "cut short".into())
    }

    fn line(&mut self) -> Step<String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let n = rest.iter().position(|b| *b == b'\n').ok_or("cut short")?;
        let text = String::from_utf8_lossy(self.take(n)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    /// A length of `n` bytes.
    fn length(&mut self, n: usize) -> Step<usize> {
        let mut wide = [0; 8];
        wide[..n].copy_from_slice(self.take(n)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "cut short".into())
    }

    fn number(&mut self, n: usize) -> Step<()> {
        let v = self.length(n)?;
        self.push(Node::Int(v as i64))
    }

    /// An integer of `n` bytes in two's complement.
    fn long(&mut self, n: usize) -> Step<()> {
        let bytes = self.take(n)?;
        if n > 8 {
            return Err("an integer of more than 64 bits".into());
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xFF } else { 0 }; 8];
        wide[..n].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, n: usize) -> Step<()> {
        let length = self.length(n)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "text that is not UTF-8")?;
        self.push(Node::Text(text.into()))
    }

    fn skip_bytes(&mut self, n: usize) -> Step<()> {
        let length = self.length(n)?;
        self.take(length)?;
        self.push(Node::Bytes)
    }

    fn push(&mut self, node: Node) -> Step<()> {
        self.entries += match &node {
            Node::Tuple(items) | Node::List(items) => items.len(),
            Node::Dict(items) => items.len(),
            _ => 0,
        };
        if self.nodes.len() + self.entries >= MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values"));
        }
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
        Ok(())
    }

    fn pop(&mut self) -> Step<Id> {
        // Below a mark lies what belongs to another container.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "an empty stack".into())
    }

    fn pop_text(&mut self) -> Step<String> {
        let id = self.pop()?;
        match &self.nodes[id] {
            Node::Text(text) => Ok(text.clone()),
            _ => Err("a name that is no text".into()),
        }
    }

    fn since_mark(&mut self) -> Step<Vec<Id>> {
        let floor = self.marks.pop().ok_or("no mark")?;
        if floor > self.stack.len() {
            return Err("an empty stack".into());
        }
        Ok(self.stack.split_off(floor))
    }

    fn remember(&mut self, key: u32) -> Step<()> {
        let top = *self.stack.last().ok_or("an empty stack")?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Step<()> {
        let id = *self.memo.get(&key).ok_or("a reference to nothing")?;
        self.stack.push(id);
        Ok(())
    }
}
