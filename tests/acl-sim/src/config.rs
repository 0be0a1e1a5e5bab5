//! The settings: `key=value` joined by `;`, from the variable `ACL_SIM` when the library is first used and from
//! `acl_sim_control` at any time.

/// When queued work runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// As soon as the worker gets to it, streams in the order of their calls.
    Eager,
    /// Only when something waits for it: a client that forgets to wait always sees the old bytes.
    Synced,
    /// Streams take turns by the seed.
    Random,
    /// The stream that was used last goes first.
    Reverse,
}

/// The chips that are told apart, with what their documents say they lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chip {
    /// Ascend910A and Ascend910B without a digit: the first generation.
    A910 = 1,
    /// Ascend310P.
    P310 = 2,
    /// Ascend910B1 to B4: Atlas A2.
    A2 = 4,
    /// Ascend910_93xx: Atlas A3.
    A3 = 8,
    /// Ascend950.
    A950 = 16,
}

/// A failure to come: the n-th call from now of a function, or the n-th task.
#[derive(Clone, Debug)]
pub struct Failure {
    pub name: String,
    pub left: u64,
    pub code: i32,
}

pub struct Config {
    pub soc: String,
    pub devices: u32,
    pub memory: u64,
    pub run: Run,
    pub seed: u64,
    /// Relative noise of 2^-perturb on results of computing operators; 0 is none.
    pub perturb: u32,
    /// Milliseconds after which a task that hangs is reported by an unbounded wait.
    pub op_timeout: u64,
    /// Milliseconds a rank is waited for, at its coming and in every collective.
    pub hccl_timeout: u64,
    pub version: (i32, i32, i32),
    pub calls: Vec<Failure>,
    pub tasks: Vec<Failure>,
    pub trace: bool,
    /// Whether `aclFinalize` takes what is left without a word.
    pub leaks_allowed: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            soc: "Ascend910B2".into(),
            devices: 1,
            memory: 16 << 30,
            run: Run::Eager,
            seed: 0,
            perturb: 0,
            op_timeout: 1000,
            hccl_timeout: 60_000,
            version: (1, 13, 0),
            calls: Vec::new(),
            tasks: Vec::new(),
            trace: false,
            leaks_allowed: false,
        }
    }
}

impl Config {
    pub fn chip(&self) -> Chip {
        let digit_follows = |prefix: &str| {
            self.soc.strip_prefix(prefix).is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        };
        if digit_follows("Ascend910B") {
            Chip::A2
        } else if self.soc.starts_with("Ascend910_93") {
            Chip::A3
        } else if self.soc.starts_with("Ascend950") {
            Chip::A950
        } else if self.soc.starts_with("Ascend310P") {
            Chip::P310
        } else {
            Chip::A910
        }
    }

    /// Applies settings; an unknown one is an error of whoever runs the test.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        for item in text.split(';').map(str::trim).filter(|i| !i.is_empty()) {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            self.set(key, value).ok_or_else(|| format!("setting {item:?} is not understood"))?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "soc" => self.soc = value.into(),
            "devices" => self.devices = value.parse().ok()?,
            "memory" => self.memory = value.parse().ok()?,
            "run" => {
                self.run = match value {
                    "eager" => Run::Eager,
                    "synced" => Run::Synced,
                    "random" => Run::Random,
                    "reverse" => Run::Reverse,
                    _ => return None,
                }
            }
            "seed" => self.seed = value.parse().ok()?,
            "perturb" => self.perturb = value.parse().ok()?,
            "op_timeout" => self.op_timeout = value.parse().ok()?,
            "hccl_timeout" => self.hccl_timeout = value.parse().ok()?,
            "trace" => self.trace = value == "1",
            "leaks" if value == "allowed" => self.leaks_allowed = true,
            "version" => {
                let mut parts = value.split('.').map(|p| p.parse().ok());
                self.version = (parts.next()??, parts.next()??, parts.next()??);
            }
            // fail=NAME:N:CODE: the N-th call of NAME from now returns CODE; NAME may end with `*`.
            "fail" => {
                let mut parts = value.split(':');
                let name = parts.next()?.to_owned();
                let left = parts.next()?.parse().ok()?;
                self.calls.push(Failure { name, left, code: parts.next()?.parse().ok()? });
            }
            // fault=N:CODE: the N-th task from now fails on the device.
            "fault" => {
                let (n, code) = value.split_once(':')?;
                self.tasks.push(Failure {
                    name: "fault".into(),
                    left: n.parse().ok()?,
                    code: code.parse().ok()?,
                });
            }
            // lost=N: the device is gone when the N-th task from now would run.
            "lost" => {
                self.tasks.push(Failure { name: "lost".into(), left: value.parse().ok()?, code: 507_010 })
            }
            // hang=N: the N-th task from now never ends.
            "hang" => {
                self.tasks.push(Failure { name: "hang".into(), left: value.parse().ok()?, code: 507_014 })
            }
            "calm" => {
                self.calls.clear();
                self.tasks.clear();
            }
            _ => return None,
        }
        Some(())
    }
}
