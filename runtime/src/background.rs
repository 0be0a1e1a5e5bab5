//! Exchanges of whole tensors among ranks while the queue goes on computing: on a thread and a stream of their own, in the order they
//! are started, which is the same on all ranks. Whoever starts one gives the tensor away and gets it back when it is done, so nobody
//! can touch its memory in between and nothing is copied.

use crate::{
    Addr, Collective, Comm, DType, Device, Error, Queue, Reduction, Result, Stream, Tensor, Traffic,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

/// What is done with the first rows of a tensor. `n / size` rows belong to each rank, in the order of the ranks; the `n % size` left
/// over belong to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// A rank's own rows and those of all become their sums over the ranks, added in the order of the ranks; the others are undefined.
    Sum,
    /// All rows become those of the rank they belong to; those of all are the same everywhere already.
    Gather,
}

/// An exchange that was started.
#[derive(Debug)]
#[must_use]
pub struct Ticket(u64);

/// How long exchanges took, and how long their results were waited for; what was not waited for was hidden behind computing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Time in which something was exchanged.
    pub busy: Duration,
    /// Time in which nothing else was done by whoever needed the result.
    pub waited: Duration,
}

/// One rank's end of a group that exchanges in the background.
pub struct Background {
    rank: usize,
    size: usize,
    /// The engine, until the first exchange says on which device.
    engine: Option<Box<dyn Comm>>,
    worker: Option<Worker>,
    started: u64,
    /// Exchanges that were done before anybody asked.
    done: HashMap<u64, Result<Tensor>>,
    traffic: BTreeMap<&'static str, Traffic>,
    times: Times,
}

struct Worker {
    device: Arc<dyn Device>,
    /// Taken away to end the thread.
    jobs: Option<mpsc::Sender<Job>>,
    done: mpsc::Receiver<Done>,
    thread: Option<thread::JoinHandle<()>>,
    /// Exchanges under way.
    open: u64,
}

struct Job {
    id: u64,
    x: Tensor,
    steps: Vec<Collective>,
}

struct Done {
    id: u64,
    x: Result<Tensor>,
    took: Duration,
}

impl Background {
    /// Of the ranks that `engine` connects.
    pub fn new(engine: Box<dyn Comm>) -> Self {
        Self {
            rank: engine.rank(),
            size: engine.size(),
            engine: Some(engine),
            worker: None,
            started: 0,
            done: HashMap::new(),
            traffic: BTreeMap::new(),
            times: Times::default(),
        }
    }

    /// This rank, from 0.
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// What was moved so far, by kind of collective.
    pub const fn traffic(&self) -> &BTreeMap<&'static str, Traffic> {
        &self.traffic
    }

    /// How long that took.
    pub const fn times(&self) -> Times {
        self.times
    }

    /// Starts an exchange of the first `rows` rows of `x`, which `q` has written: what it was given so far is done before.
    ///
    /// # Errors
    /// More rows than there are, a tensor of another device, or whatever failed on the queue.
    pub fn start(&mut self, q: &mut Queue, what: Exchange, x: Tensor, rows: usize) -> Result<Ticket> {
        let op = "exchange";
        if rows > x.rows() {
            return Err(Error::Shape { op, what: format!("{rows} rows of {x:?}") });
        }
        let at = q.whole(op, "x", x.view().raw)?.addr;
        let steps = self.steps(what, at, (rows, x.cols()), x.dtype());
        for c in &steps {
            let (n, dtype) = match *c {
                Collective::AllReduce { n, dtype, .. } => (n, dtype),
                Collective::AllGather { n, dtype, .. } | Collective::ReduceScatter { n, dtype, .. } => {
                    (n * self.size as u64, dtype)
                }
                _ => (0, DType::U8),
            };
            *self.traffic.entry(c.name()).or_default() += Traffic::of(c.name(), n, dtype, self.size);
        }
        // The exchange's stream knows nothing of the queue's.
        q.sync()?;
        let id = self.started;
        self.started += 1;
        let worker = self.worker(q.device())?;
        worker.open += 1;
        let sent = worker.jobs.as_ref().map(|jobs| jobs.send(Job { id, x, steps }));
        if sent.is_none_or(|sent| sent.is_err()) {
            return Err(self.gone());
        }
        Ok(Ticket(id))
    }

    /// The tensor of an exchange that was started, when it is done.
    ///
    /// # Errors
    /// A rank that did not take part in time; the tensor is lost, and with it whatever it belonged to.
    pub fn finish(&mut self, Ticket(id): Ticket) -> Result<Tensor> {
        let began = Instant::now();
        while !self.done.contains_key(&id) {
            let next = self.worker.as_ref().and_then(|w| w.done.recv().ok());
            let Some(Done { id, x, took }) = next else { return Err(self.gone()) };
            self.times.busy += took;
            self.done.insert(id, x);
            self.worker.iter_mut().for_each(|w| w.open -= 1);
        }
        self.times.waited += began.elapsed();
        self.done.remove(&id).unwrap_or_else(|| Err(self.gone()))
    }

    fn gone(&self) -> Error {
        let what = "the thread that exchanges tensors has ended".into();
        Error::Comm { rank: self.rank, op: "exchange", what }
    }

    /// The collectives of an exchange at `at`.
    fn steps(&self, what: Exchange, at: Addr, (rows, cols): (usize, usize), dtype: DType) -> Vec<Collective> {
        let (each, left) = (rows / self.size, rows % self.size);
        let place = |row: usize| Addr(at.0 + (row * cols * dtype.bytes()) as u64);
        let (n, own) = ((each * cols) as u64, place(self.rank * each));
        let mut steps = Vec::new();
        if n > 0 {
            steps.push(match what {
                Exchange::Sum => {
                    Collective::ReduceScatter { src: at, dst: own, n, dtype, how: Reduction::Sum }
                }
                Exchange::Gather => Collective::AllGather { src: own, dst: at, n, dtype },
            });
        }
        if what == Exchange::Sum && left * cols > 0 {
            let (x, n) = (place(each * self.size), (left * cols) as u64);
            steps.push(Collective::AllReduce { x, n, dtype, how: Reduction::Sum });
        }
        steps
    }

    fn worker(&mut self, device: &Arc<dyn Device>) -> Result<&mut Worker> {
        if let Some(engine) = self.engine.take() {
            self.worker = Some(Worker::start(engine, device)?);
        }
        let gone = self.gone();
        let worker = self.worker.as_mut().ok_or(gone)?;
        if !Arc::ptr_eq(&worker.device, device) {
            let what = format!("began on {} and cannot go on elsewhere", worker.device.info().name);
            return Err(Error::Comm { rank: self.rank, op: "exchange", what });
        }
        Ok(worker)
    }
}

impl Worker {
    fn start(mut engine: Box<dyn Comm>, device: &Arc<dyn Device>) -> Result<Self> {
        let mut stream = device.stream()?;
        let (jobs, taken) = mpsc::channel::<Job>();
        let (told, done) = mpsc::channel();
        let work = move || {
            for Job { id, x, steps } in taken {
                let began = Instant::now();
                let ended = run(&mut *engine, &mut *stream, &steps);
                let done = Done { id, x: ended.map(|()| x), took: began.elapsed() };
                if told.send(done).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("exchange".into()).spawn(work).map_err(|e| {
            let what = format!("a thread for exchanging tensors does not start: {e}");
            Error::Comm { rank: 0, op: "exchange", what }
        })?;
        Ok(Self { device: device.clone(), jobs: Some(jobs), done, thread: Some(thread), open: 0 })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        // A thread in the middle of an exchange may wait for a rank that never comes; it has what it needs, and ends on its own.
        if self.open == 0
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn run(engine: &mut dyn Comm, stream: &mut dyn Stream, steps: &[Collective]) -> Result<()> {
    for c in steps {
        // SAFETY: the addresses are those of a tensor of this device that the job holds, its sizes those of the tensor; what was
        // queued on it elsewhere was waited for.
        unsafe { engine.collective(stream, c)? };
    }
    stream.sync()
}
