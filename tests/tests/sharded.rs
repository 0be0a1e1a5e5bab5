//! Ranks that divide a batch also divide the optimiser: each has the moments of its rows alone and updates those. Weights are the
//! bits of one optimiser that was given the gradients of all ranks, added in their order; exchanges run beside the computing; the
//! memory shrinks as planned, and snapshots know nothing of it.

use lm_saes::{
    dictionary::{Coefficients, Dictionary, ParamGroup, StepInput, build_on},
    parallel::{Mesh, MeshSize, balanced},
    runners::{self, Start},
    settings::{DictionarySettings, TrainSettings, TrainerSettings, from_tree},
    tensorfile::TensorFile,
    training::{Observer, Progress, optimizer::Optimizer},
};
use lm_saes_backends::registry;
use lm_saes_runtime::{
    AdamArgs, Addr, Arena, Collective, Comm, DType, Group, MapKind, Op, Queue, RandomKind, ReduceKind,
    Result, Stream, Tensor,
};
use lm_saes_tests::{
    gradients, queue,
    ranks::on_ranks,
    tiny::{job, world},
};
use serde_json::{Value, json};
use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

const D: usize = 20;
const ROWS: usize = 24;
const STEPS: u64 = 4;
const BETAS: (f64, f64) = (0.9, 0.99);
const LR: (f64, f64) = (3e-3, 1e-3);

fn saes() -> Vec<Value> {
    // 70 and 35 features divide among no more than two ranks: rows left over belong to all.
    let sae = |more: Value| {
        let mut all = json!({"sae_type": "sae", "hook_point_in": "a", "hook_point_out": "b", "d_model": D,
                             "expansion_factor": 3.5, "top_k": 6, "norm_activation": "inference"});
        more.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
        all
    };
    vec![
        sae(json!({"act_fn": "topk"})),
        sae(json!({"act_fn": "jumprelu", "use_skip_connection": true})),
        sae(json!({"sae_type": "crosscoder", "hook_points": ["a", "b"], "act_fn": "topk",
                   "hook_point_in": null, "hook_point_out": null, "expansion_factor": 1.75})),
        clt(),
    ]
}

/// Its decoders' gradients are made when they are asked for.
fn clt() -> Value {
    json!({"sae_type": "clt", "hook_points_in": ["a", "b"], "hook_points_out": ["b", "a"], "d_model": D,
           "expansion_factor": 1.75, "act_fn": "topk", "top_k": 6, "norm_activation": "inference"})
}

fn settings(mut tree: Value) -> DictionarySettings {
    tree.as_object_mut().unwrap().retain(|_, v| !v.is_null());
    from_tree(&tree).unwrap()
}

fn trainer(more: &Value) -> TrainerSettings {
    let mut tree = json!({"total_training_tokens": 1000, "betas": [BETAS.0, BETAS.1]});
    more.as_object().unwrap().iter().for_each(|(key, value)| tree[key] = value.clone());
    from_tree(&tree).unwrap()
}

/// A dictionary of this mesh with random values, planned, and its optimiser; the arenas must outlive both.
fn planned(
    q: &mut Queue,
    mesh: &Mesh,
    sae: &Value,
    settings_of: &TrainerSettings,
) -> lm_saes::Result<(Box<dyn Dictionary>, Optimizer, [Arena; 2])> {
    let about = settings(sae.clone());
    let mut d = build_on(q, &about, mesh)?;
    for (i, p) in d.params_mut().into_iter().enumerate() {
        let deviation = if p.name.contains("threshold") { 0.1 } else { 0.4 };
        q.random(RandomKind::Normal, (0.0, deviation), 7 + i as u64, 0, &mut p.value)?;
    }
    let (k, loss) = (about.top_k(), settings_of.loss());
    let mut plans = [Arena::planning("step"), Arena::planning("optimizer")];
    for real in [false, true] {
        if real {
            plans = [Arena::build(&plans[0], q.device())?, Arena::build(&plans[1], q.device())?];
        }
        let [step, moments] = &mut plans;
        d.plan(step, ROWS, k, Some(&loss))?;
        let mut optimizer = Optimizer::plan(step, moments, &*d, settings_of)?;
        if real {
            optimizer.reset(q)?;
            return Ok((d, optimizer, plans));
        }
    }
    unreachable!("the second pass returns")
}

/// The step's loss, with gradients of this rank's rows of a batch that all ranks know.
fn forward(q: &mut Queue, d: &mut dyn Dictionary, step: u64, s: &TrainerSettings) -> lm_saes::Result<f32> {
    let mesh = d.base().mesh.clone();
    let own = balanced(ROWS, mesh.data.rank(), mesh.data.size());
    let acts = [0, 1].map(|hook| {
        let mut t = q.empty(ROWS, D, DType::F32).unwrap();
        q.random(RandomKind::Normal, (0.0, 1.0), 100 + 10 * step + hook, 0, &mut t).unwrap();
        t
    });
    let weight = q.tensor(ROWS, 1, &[1.0 / ROWS as f32; ROWS])?;
    let views = |hooks: Vec<String>| {
        let of = |h: &String| acts[usize::from(h == "b")].rows_view(own.clone());
        hooks.iter().map(of).collect::<Vec<_>>()
    };
    let input = StepInput {
        inputs: views(d.hook_points_in()),
        labels: views(d.hook_points_out()),
        context: None,
        mask: None,
        weight: weight.rows_view(own.clone()),
        n_tokens: ROWS,
    };
    let c = Coefficients { k: d.settings().top_k(), l1: 0.0, lp: 0.0, auxk: 0.0 };
    Ok(d.train_step(q, &input, &s.loss(), c, None)?.loss)
}

type Values = Vec<Vec<f32>>;

/// One rank's gradients of its rows at every step, losses, and the weights after it.
struct Seen {
    gradients: Vec<Values>,
    losses: Vec<f32>,
    weights: Vec<Values>,
    norms: Vec<f64>,
    moments: usize,
}

fn values(q: &mut Queue, d: &dyn Dictionary) -> Values {
    d.params().iter().map(|p| q.download(&p.value).unwrap()).collect()
}

fn train(q: &mut Queue, mesh: &Mesh, sae: &Value, s: &TrainerSettings) -> lm_saes::Result<Seen> {
    let (mut d, mut optimizer, _arenas) = planned(q, mesh, sae, s)?;
    let moments = optimizer.moments().iter().map(|m| m.m.bytes() + m.v.bytes()).sum();
    let mut seen =
        Seen { gradients: Vec::new(), losses: Vec::new(), weights: Vec::new(), norms: Vec::new(), moments };
    for step in 0..STEPS {
        seen.losses.push(forward(q, &mut *d, step, s)?);
        seen.gradients.push(gradients(q, &mut *d));
        let norms = optimizer.step(q, &mut *d, LR, step)?;
        seen.norms.push(norms.before_clipping);
        seen.weights.push(values(q, &*d));
    }
    Ok(seen)
}

fn on_data_ranks(ranks: usize, sae: &Value, s: &TrainerSettings) -> Vec<Seen> {
    let seen = on_ranks(ranks, |_, comm| {
        let mesh = Mesh::new(Group::new(comm), MeshSize { data: ranks, head: 1, model: 1 })?;
        train(&mut queue(), &mesh, sae, s)
    });
    seen.into_iter().map(|s| s.unwrap_or_else(|e| panic!("{sae} on {ranks}: {e}"))).collect()
}

/// Whole-tensor Adam on gradients added up in the order of the ranks: what the weights have to be, bit by bit.
fn oracle(q: &mut Queue, sae: &Value, s: &TrainerSettings, seen: &[Seen]) -> Vec<Values> {
    let d = planned(q, &Mesh::solo(), sae, s).unwrap().0;
    let params: Vec<(usize, usize, ParamGroup)> =
        d.params().iter().map(|p| (p.value.rows(), p.value.cols(), p.group)).collect();
    let mut values: Vec<Tensor> = d
        .params()
        .iter()
        .map(|p| {
            let mut own = q.empty(p.value.rows(), p.value.cols(), DType::F32).unwrap();
            q.copy(&p.value, &mut own).unwrap();
            own
        })
        .collect();
    let zeros = |q: &mut Queue| -> Vec<Tensor> {
        params.iter().map(|p| q.zeros(p.0, p.1, DType::F32).unwrap()).collect()
    };
    let (mut m, mut v) = (zeros(q), zeros(q));
    let mut after = Vec::new();
    for step in 0..STEPS as usize {
        let summed: Vec<Tensor> = (0..params.len())
            .map(|i| {
                let mut sum = seen[0].gradients[step][i].clone();
                for other in &seen[1..] {
                    sum.iter_mut().zip(&other.gradients[step][i]).for_each(|(a, b)| *a += b);
                }
                q.tensor(params[i].0, params[i].1, &sum).unwrap()
            })
            .collect();
        let scale = scale(q, s, &summed, &params);
        for (i, (rows, cols, group)) in params.iter().enumerate() {
            let thresholds = *group == ParamGroup::Thresholds;
            assert_eq!((summed[i].rows(), summed[i].cols()), (*rows, *cols));
            let args = AdamArgs {
                lr: if thresholds { LR.1 } else { LR.0 } as f32,
                beta1: BETAS.0 as f32,
                beta2: BETAS.1 as f32,
                eps: 1e-8,
                t: step as u64 + 1,
                grad_scale: if thresholds { 1.0 } else { scale },
                sparse: s.optimizer_class == lm_saes::settings::OptimizerKind::SparseAdam,
            };
            q.adam(&mut values[i], &mut m[i], &mut v[i], &summed[i], args, None, None).unwrap();
        }
        after.push(values.iter().map(|t| q.download(t).unwrap()).collect());
    }
    after
}

fn scale(q: &mut Queue, s: &TrainerSettings, grads: &[Tensor], params: &[(usize, usize, ParamGroup)]) -> f32 {
    let (mut squares, mut counts) = (0.0, 0.0);
    for (grad, _) in grads.iter().zip(params).filter(|(_, p)| p.2 == ParamGroup::Others) {
        let mut sum = [0.0, 0.0];
        for (kind, sum) in [ReduceKind::SumSq, ReduceKind::NonZero].into_iter().zip(&mut sum) {
            let mut rows = q.empty(grad.rows(), 1, DType::F32).unwrap();
            q.reduce_cols(kind, grad, &mut rows, 0.0).unwrap();
            q.download::<f32>(&rows).unwrap().iter().for_each(|&v| *sum += f64::from(v));
        }
        squares += sum[0];
        counts += sum[1];
    }
    let norm = (squares / counts).sqrt();
    match s.clip_grad_norm > 0.0 && norm > s.clip_grad_norm {
        true => (s.clip_grad_norm / (norm + 1e-6)) as f32,
        false => 1.0,
    }
}

#[test]
fn weights_are_bit_by_bit_those_of_gradients_added_up_in_one_place() {
    for more in [
        json!({}),
        json!({"clip_grad_norm": 1e-3}),
        json!({"clip_grad_norm": 0.5, "optimizer_class": "sparseadam"}),
    ] {
        let s = trainer(&more);
        for sae in saes() {
            for ranks in [2, 3, 4] {
                let seen = on_data_ranks(ranks, &sae, &s);
                let expected = oracle(&mut queue(), &sae, &s, &seen);
                for (rank, own) in seen.iter().enumerate() {
                    let about = format!("{sae} {more} on rank {rank} of {ranks}");
                    for step in 0..STEPS as usize {
                        for (i, (got, want)) in own.weights[step].iter().zip(&expected[step]).enumerate() {
                            let same = got.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits());
                            assert!(same, "{about}: parameter {i} after step {step}");
                        }
                        assert_eq!(own.losses[step].to_bits(), seen[0].losses[step].to_bits(), "{about}");
                        assert_eq!(own.norms[step].to_bits(), seen[0].norms[step].to_bits(), "{about}");
                    }
                }
            }
        }
    }
}

#[test]
fn moments_take_a_ranks_share_of_memory_alone() {
    for sae in saes() {
        let s = trainer(&json!({}));
        let whole = on_data_ranks(1, &sae, &s)[0].moments;
        for ranks in [2, 4] {
            for own in on_data_ranks(ranks, &sae, &s) {
                // Vectors, and up to a row less than there are ranks of each matrix, are everybody's.
                let shared = 8 * D * 8 * ranks + 8 * 3 * 70;
                assert!(
                    own.moments <= whole / ranks + shared,
                    "{sae}: {} of {whole} on {ranks}",
                    own.moments
                );
                assert!(own.moments >= whole / ranks, "{sae}: {} of {whole} on {ranks}", own.moments);
            }
        }
    }
}

/// When something began and ended, on any rank.
type Log = Arc<Mutex<Vec<(String, Instant, Instant)>>>;

/// An engine whose exchanges take long.
struct Slow {
    inner: Box<dyn Comm>,
    pause: Duration,
    log: Log,
}

// SAFETY: passed on.
unsafe impl Comm for Slow {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn size(&self) -> usize {
        self.inner.size()
    }
    unsafe fn collective(&mut self, stream: &mut dyn Stream, c: &Collective) -> Result<()> {
        let began = Instant::now();
        let slow = matches!(c, Collective::ReduceScatter { .. });
        if slow {
            thread::sleep(self.pause);
        }
        // SAFETY: the caller's promises are passed on.
        let done = unsafe { self.inner.collective(stream, c) };
        if slow && self.rank() == 0 {
            self.log.lock().unwrap().push((c.name().into(), began, Instant::now()));
        }
        done
    }
    fn split(&mut self, color: u32, key: u32) -> Result<Box<dyn Comm>> {
        let inner = self.inner.split(color, key)?;
        Ok(Box::new(Self { inner, pause: self.pause, log: self.log.clone() }))
    }
}

/// A stream that writes down when its ops ran, on which one kind of op takes long.
struct Watched {
    inner: Box<dyn Stream>,
    log: Log,
    slow: (String, Duration),
}

// SAFETY: passed on.
unsafe impl Stream for Watched {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        let began = Instant::now();
        // SAFETY: the caller's promises are passed on.
        unsafe { self.inner.launch(op)? };
        if op.name() == self.slow.0 {
            thread::sleep(self.slow.1);
        }
        self.log.lock().unwrap().push((op.name().into(), began, Instant::now()));
        Ok(())
    }
    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        // SAFETY: passed on.
        unsafe { self.inner.upload(src, dst) }
    }
    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        // SAFETY: passed on.
        unsafe { self.inner.download(src, dst) }
    }
    fn sync(&mut self) -> Result<()> {
        self.inner.sync()
    }
}

/// How often the op that `computes` ran while gradients were being exchanged, where both take long, the weights, and how long exchanges took and were waited
/// for; with something to do between the gradients and their use.
fn overlapped(sae: &Value, pause: u64, computes: &str) -> (usize, Values, lm_saes_runtime::Times) {
    let (moved, ran) = (Log::default(), Log::default());
    let s = trainer(&json!({}));
    let seen = on_ranks(2, |rank, comm| -> lm_saes::Result<(Values, lm_saes_runtime::Times)> {
        let comm = Slow { inner: comm, pause: Duration::from_millis(pause), log: moved.clone() };
        let mesh = Mesh::new(Group::new(Box::new(comm)), MeshSize { data: 2, head: 1, model: 1 })?;
        let device = registry().open("cpu")?;
        let log = if rank == 0 { ran.clone() } else { Log::default() };
        let slow = (computes.to_string(), Duration::from_millis(pause / 5));
        let mut q = Queue::with_stream(&device, Box::new(Watched { inner: device.stream()?, log, slow }));
        let (mut d, mut optimizer, _arenas) = planned(&mut q, &mesh, sae, &s)?;
        for step in 0..STEPS {
            forward(&mut q, &mut *d, step, &s)?;
            optimizer.begin(&mut q, &mut *d)?;
            // What a trainer measures between a step and its update.
            let mut figures = q.zeros(64, 64, DType::F32)?;
            q.map_in_place(MapKind::Tanh, 1.0, 0.0, figures.view_mut())?;
            optimizer.step(&mut q, &mut *d, LR, step)?;
        }
        Ok((values(&mut q, &*d), mesh.exchanges.times()))
    });
    let (weights, times) = seen.into_iter().map(lm_saes::Result::unwrap).next().unwrap();
    let (moved, ran) = (moved.lock().unwrap(), ran.lock().unwrap());
    let meets = |began: Instant, ended: Instant| moved.iter().any(|(_, b, e)| *b < ended && began < *e);
    let n = ran.iter().filter(|(op, began, ended)| op == computes && meets(*began, *ended)).count();
    (n, weights, times)
}

/// Milliseconds an exchange takes.
const PAUSE: u64 = 60;

#[test]
fn gradients_are_exchanged_while_others_are_computed_and_used() {
    // While the first gradients are under way figures are taken; while later ones are, earlier parameters are updated.
    let sae = &saes()[0];
    let quick = overlapped(sae, 0, "Adam").1;
    for op in ["Map", "Adam"] {
        let (n, weights, times) = overlapped(sae, PAUSE, op);
        assert!(n >= STEPS as usize, "{op} ran {n} times during an exchange");
        assert!(weights == quick, "how long exchanges take changes the weights");
        assert!(times.busy >= Duration::from_millis(2 * STEPS * PAUSE), "{times:?}");
        assert!(times.waited < times.busy, "{times:?}");
    }
    // Where gradients are made on demand, the next ones are made while earlier ones are under way.
    let quick = overlapped(&clt(), 0, "SparseMul").1;
    let (n, weights, _) = overlapped(&clt(), PAUSE, "SparseMul");
    assert!(n >= STEPS as usize, "{n} gradients were made during an exchange");
    assert!(weights == quick, "how long exchanges take changes the weights");
}

/// Losses as they come; stops where told to.
struct Watch(Vec<f64>, u64);

impl Observer for Watch {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        self.0.push(p.loss);
        if p.step == self.1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn run(tree: &Value, ranks: usize, start: Start, stop: u64) -> Vec<f64> {
    let mut tree = tree.clone();
    tree["data_parallel_size"] = json!(ranks);
    let settings: TrainSettings = from_tree(&tree).unwrap();
    let mut losses = on_ranks(ranks, |_, comm| {
        let mut watch = Watch(Vec::new(), stop);
        runners::train_with(&settings, &registry(), &mut watch, start, Group::new(comm)).unwrap();
        watch.0
    });
    losses.swap_remove(0)
}

#[test]
fn a_snapshot_has_the_moments_of_all_ranks_and_any_number_of_them_takes_it_up() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let tree = |name: &str| {
        let mut tree = job(dir.path(), name, &["eval=false", "trainer.total_training_tokens=1280"]);
        // 81 features: twenty for each of four ranks, and one that all have.
        tree["sae"]["expansion_factor"] = json!(1.6875);
        tree
    };
    let whole = run(&tree("whole"), 4, Start::Fresh, u64::MAX);
    let mut parts = run(&tree("parts"), 4, Start::Fresh, 7);
    let file = |name: &str, step: u64| {
        TensorFile::open(dir.path().join(format!("{name}/checkpoints/step_{step}/optimizer.safetensors")))
            .unwrap()
    };
    let (of_four, alone) = (file("parts", 7), {
        run(&tree("alone"), 1, Start::Fresh, 7);
        file("alone", 7)
    });
    for tensor in alone.list() {
        let (name, read) = (&tensor.name, |f: &TensorFile| f.f32(&tensor.name).unwrap());
        let ((shape, want), (same, got)) = (read(&alone), read(&of_four));
        assert_eq!(shape, same, "{name}");
        let largest = want.iter().fold(0.0, |a: f32, v| a.max(v.abs()));
        for (i, (a, b)) in got.iter().zip(&want).enumerate() {
            assert!((a - b).abs() <= 1e-3 * largest, "{name}[{i}]: {a} and {b} of {largest}");
        }
    }
    // As many ranks go on with the same bits; another number to rounding.
    parts.extend(run(&tree("parts"), 4, Start::Resume, u64::MAX));
    assert_eq!(parts, whole);
    let mut others = run(&tree("others"), 4, Start::Fresh, 7);
    others.extend(run(&tree("others"), 2, Start::Resume, 13));
    others.extend(run(&tree("others"), 1, Start::Resume, u64::MAX));
    assert_eq!(others.len(), whole.len());
    for (a, b) in others.iter().zip(&whole) {
        assert!((a - b).abs() <= 1e-4 * b.abs(), "{others:?} and {whole:?}");
    }
}

#[test]
fn the_plan_divides_the_memory_of_moments_among_the_ranks() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 10);
    let planned = |ranks: usize| {
        let mut tree = job(dir.path(), "out", &["eval=false"]);
        tree["data_parallel_size"] = json!(ranks);
        let plan = runners::plan(&from_tree(&tree).unwrap(), &registry()).unwrap();
        let moments = plan.memory.iter().find(|m| m.what == "optimizer moments").unwrap().bytes;
        (moments, plan.communication)
    };
    let (one, nothing) = planned(1);
    assert!(nothing.is_empty());
    for ranks in [2, 4, 64] {
        let (moments, sent) = planned(ranks);
        // Vectors stay whole, and every tensor begins at a multiple of 256 bytes.
        assert!(moments < one / ranks + 8 * 1024, "{moments} of {one} on {ranks}");
        assert!(sent.iter().any(|m| m.what == "parameters" && m.exact && m.bytes > 0));
    }
}
