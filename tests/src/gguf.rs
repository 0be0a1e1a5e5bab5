//! Writes small `.gguf` files for tests, valid or broken on purpose. Independent of the reader it tests.

/// A file under construction.
#[derive(Default)]
pub struct GgufFile {
    version: Option<u32>,
    metadata: Vec<u8>,
    n_metadata: u64,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

/// Length-prefixed string.
pub fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

impl GgufFile {
    /// A file of one architecture.
    pub fn new(arch: &str) -> Self {
        Self::default().text("general.architecture", arch)
    }
    /// Another version than 3.
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }
    /// A metadata entry of any type, its value already encoded.
    pub fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.metadata.extend(text(key));
        self.metadata.extend(kind.to_le_bytes());
        self.metadata.extend(value);
        self.n_metadata += 1;
        self
    }
    /// A string.
    pub fn text(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, &text(value))
    }
    /// An unsigned 32-bit integer.
    pub fn count(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }
    /// A 32-bit float.
    pub fn number(self, key: &str, value: f32) -> Self {
        self.entry(key, 6, &value.to_le_bytes())
    }
    /// A boolean.
    pub fn flag(self, key: &str, value: bool) -> Self {
        self.entry(key, 7, &[value.into()])
    }
    /// An array, its elements already encoded.
    pub fn array(self, key: &str, kind: u32, elements: &[Vec<u8>]) -> Self {
        let head = [&kind.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes()].concat();
        self.entry(key, 9, &[head, elements.concat()].concat())
    }
    /// An array of strings.
    pub fn texts(self, key: &str, values: &[&str]) -> Self {
        self.array(key, 8, &values.iter().map(|s| text(s)).collect::<Vec<_>>())
    }
    /// A tensor of any type, `shape` slowest dimension first.
    pub fn tensor(mut self, name: &str, shape: &[usize], kind: u32, data: Vec<u8>) -> Self {
        let dims = shape.iter().rev().map(|&d| d as u64).collect();
        self.tensors.push((name.into(), dims, kind, data));
        self
    }
    /// An f32 tensor.
    pub fn f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.tensor(name, shape, 0, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The bytes of the file, data aligned to 32.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(|_, offset| offset)
    }

    /// The same with offsets changed by `place` (tensor number, offset where the data really is).
    pub fn bytes_with(&self, place: impl Fn(usize, u64) -> u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_metadata.to_le_bytes());
        out.extend(&self.metadata);
        let mut data = Vec::new();
        for (i, (name, dims, kind, values)) in self.tensors.iter().enumerate() {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(place(i, data.len() as u64).to_le_bytes());
            data.extend(values);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}
