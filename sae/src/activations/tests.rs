//! The stream against a plain list implementation of its rules, over a synthetic model whose activations tell token and
//! place, so that any lost, doubled or mixed-up row shows.

use super::*;
use crate::data::{
    ContextReader, Order, Overflow, SampleBy, TextOptions, TextSource, TokenPolicy, TokenStream, Tokenize,
    WeightedSource, random,
};
use std::{cell::Cell, fmt::Write as _, fs, path::Path, sync::Arc};
use tempfile::TempDir;

/// Every byte is a token.
struct Bytes;
impl Tokenize for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }
}

/// Activations `[token, position, hook · 1000 + column, …]`; counts its runs.
#[derive(Default)]
struct Synthetic {
    runs: Cell<usize>,
    /// Model batches it wants at once; those of each then lie in tensors of all.
    at_once: usize,
}

/// Width of hook `h`.
fn width(h: usize) -> usize {
    3 + 2 * h
}

fn row(token: u32, position: usize, h: usize) -> Vec<f32> {
    let value = |j: usize| match j {
        0 => token as f32,
        1 => position as f32,
        // No round number, so that saving anything but the exact bits would show.
        _ => ((token as usize * 31 + position * 7 + h * 1000 + j) as f32).sqrt(),
    };
    (0..width(h)).map(value).collect()
}

impl Producer for Synthetic {
    fn activations(&self, q: &mut Queue, hook_points: &[String], t: &TokenBatch) -> Result<Vec<Tensor>> {
        self.runs.set(self.runs.get() + 1);
        let act = |h| {
            let values: Vec<f32> =
                t.ids.iter().enumerate().flat_map(|(i, &id)| row(id, i % t.len, h)).collect();
            Ok(q.tensor(t.ids.len(), width(h), &values)?)
        };
        (0..hook_points.len()).map(act).collect()
    }

    fn at_once(&self) -> usize {
        self.at_once.max(1)
    }

    fn several(&self, q: &mut Queue, hook_points: &[String], batches: &[TokenBatch]) -> Result<Vec<Part>> {
        assert!(!batches.is_empty() && batches.len() <= self.at_once());
        let longest = batches.iter().map(|t| t.ids.len()).max().unwrap();
        let mut all = Vec::new();
        for h in 0..hook_points.len() {
            all.push(q.zeros(batches.len() * longest, width(h), lm_saes_runtime::DType::F32)?);
        }
        for (i, t) in batches.iter().enumerate() {
            for (whole, own) in all.iter_mut().zip(self.activations(q, hook_points, t)?) {
                q.copy(&own, whole.rows_mut(i * longest..i * longest + t.ids.len()))?;
            }
        }
        let all = Arc::new(all);
        let of =
            |(i, t): (usize, &TokenBatch)| Part::new(all.clone(), i * longest..i * longest + t.ids.len());
        Ok(batches.iter().enumerate().map(of).collect())
    }
}

fn queue() -> Queue {
    let device = lm_saes_backends::registry().open("reference").expect("the reference device");
    Queue::new(&device).unwrap()
}

/// Everything a case varies.
#[derive(Clone, Debug)]
struct Case {
    policy: TokenPolicy,
    target: Target,
    hooks: usize,
    batch_size: usize,
    buffer_size: Option<usize>,
    model_batch_size: usize,
    /// Weight and order of each source.
    sources: Vec<(f64, Order)>,
    seed: u64,
}

impl Case {
    fn plain() -> Self {
        let policy = TokenPolicy {
            context_size: Some(8),
            max_length: 64,
            prepend_bos: true,
            bos: Some(1),
            eos: Some(2),
            pad: 0,
            overflow: Overflow::Truncate,
            ignore_token_ids: Vec::new(),
            mask_first_position: false,
        };
        Self {
            policy,
            target: Target::Activations1d,
            hooks: 2,
            batch_size: 16,
            buffer_size: None,
            model_batch_size: 3,
            sources: vec![(1.0, Order::default()), (2.0, Order::default())],
            seed: 42,
        }
    }

    fn tokens(&self, dir: &Path) -> TokenStream {
        let open = |(i, &(weight, order)): (usize, &(f64, Order))| {
            let options = TextOptions { sample_by: SampleBy::Line, ..TextOptions::default() };
            let source = TextSource::open(&dir.join(format!("{i}.txt")), &options).unwrap();
            let reader =
                ContextReader::new(Arc::new(source), Arc::new(Bytes), self.policy.clone(), order).unwrap();
            WeightedSource { name: i.to_string(), weight, reader: reader.into() }
        };
        let sources = self.sources.iter().enumerate().map(open).collect();
        TokenStream::new(sources, self.seed, self.model_batch_size).unwrap()
    }

    fn settings(&self) -> StreamSettings {
        let hooks = if self.target == Target::Tokens { 0 } else { self.hooks };
        StreamSettings {
            target: self.target,
            hook_points: (0..hooks).map(|h| format!("blocks.{h}.hook_resid_post")).collect(),
            batch_size: self.batch_size,
            buffer_size: self.buffer_size,
            shuffle_seed: self.seed,
        }
    }

    fn stream(&self, dir: &Path) -> ActivationStream {
        ActivationStream::new(self.settings(), self.tokens(dir)).unwrap()
    }
}

/// Texts of different lengths, three files.
fn texts() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in 0..3u64 {
        let mut text = String::new();
        for line in 0..25 {
            let len = (random::unit(file, random::Use::Source, line) * 30.0) as usize;
            let first = char::from(b'a' + (line % 26) as u8);
            writeln!(text, "{first}{}", &"bcdefghijklmnopqrstuvwxyzABCDEFGHIJ"[..len]).unwrap();
        }
        fs::write(dir.path().join(format!("{file}.txt")), text).unwrap();
    }
    dir
}

/// A batch on the host, comparable bit by bit.
#[derive(Clone, Debug, PartialEq)]
struct Host {
    acts: Vec<Vec<u32>>,
    tokens: Vec<u32>,
    mask: Vec<u8>,
    contexts: Option<(usize, usize)>,
    n_valid: usize,
}

fn host(q: &mut Queue, batch: &Batch) -> Host {
    let bits = |a: &Tensor| q.download::<f32>(a).unwrap().iter().map(|v| v.to_bits()).collect();
    Host {
        acts: batch.acts.iter().map(bits).collect(),
        tokens: batch.tokens.clone(),
        mask: batch.mask.clone(),
        contexts: batch.contexts,
        n_valid: batch.n_valid,
    }
}

fn batches(q: &mut Queue, stream: &mut ActivationStream, model: &Synthetic, most: usize) -> Vec<Host> {
    let mut out = Vec::new();
    while out.len() < most
        && let Some(batch) = stream.next_batch(q, model).unwrap()
    {
        out.push(host(q, &batch));
    }
    out
}

/// A row of the list implementation: tokens, mask and positions of one token or one context.
type Row = Vec<(u32, u8, usize)>;

/// The rules of TRAINING §7.4 over plain lists.
fn expected(case: &Case, dir: &Path, most: usize) -> Vec<Host> {
    let mut tokens = case.tokens(dir);
    let flat = case.target == Target::Activations1d;
    let (mut waiting, mut out): (Vec<Row>, Vec<Vec<Row>>) = Default::default();
    let mut refills = 0;
    while out.len() < most
        && let Some(t) = tokens.next_batch().unwrap()
    {
        let cells: Row = (0..t.ids.len()).map(|i| (t.ids[i], t.mask[i], i % t.len)).collect();
        if flat {
            waiting.extend(cells.into_iter().filter(|c| c.1 == 1).map(|c| vec![c]));
        } else {
            waiting.extend(cells.chunks(t.len).map(<[_]>::to_vec));
        }
        let least = match case.buffer_size {
            Some(size) if waiting.len() < size => continue,
            Some(size) => {
                let order = random::permutation(case.seed, refills, waiting.len());
                waiting = order.iter().map(|&i| waiting[i as usize].clone()).collect();
                refills += 1;
                case.batch_size.max(size / 2)
            }
            None => case.batch_size,
        };
        while waiting.len() >= least {
            out.push(waiting.drain(..case.batch_size).collect());
        }
    }
    out.extend(waiting.chunks(case.batch_size).map(<[_]>::to_vec));
    out.truncate(most);
    let hooks = if case.target == Target::Tokens { 0 } else { case.hooks };
    let to_host = |batch: &Vec<Row>| {
        let cells = || batch.iter().flatten();
        Host {
            acts: (0..hooks)
                .map(|h| cells().flat_map(|&(t, _, p)| row(t, p, h)).map(f32::to_bits).collect())
                .collect(),
            tokens: cells().map(|c| c.0).collect(),
            mask: cells().map(|c| c.1).collect(),
            contexts: (!flat).then(|| (batch.len(), batch[0].len())),
            n_valid: cells().filter(|c| c.1 == 1).count(),
        }
    };
    out.iter().map(to_host).collect()
}

/// Compares a case with the list implementation, and again from every batch it can be stopped at.
fn check(case: &Case, most: usize, stops: impl Iterator<Item = usize>) {
    let (dir, mut q) = (texts(), queue());
    let wanted = expected(case, dir.path(), most);
    let whole = Synthetic::default();
    let got = batches(&mut q, &mut case.stream(dir.path()), &whole, most);
    assert!(got == wanted, "{case:?}: {} batches, {} expected", got.len(), wanted.len());

    let file = dir.path().join("state.safetensors");
    for stop in stops.take_while(|&stop| stop <= wanted.len()) {
        let mut first = case.stream(dir.path());
        let before = Synthetic::default();
        batches(&mut q, &mut first, &before, stop);
        first.save_state(&mut q, &file).unwrap();
        let mut second = case.stream(dir.path());
        second.load_state(&mut q, &file).unwrap();
        assert_eq!(second.cursor(), first.cursor());
        assert_eq!(second.progress(), first.progress());
        let after = Synthetic::default();
        let rest = batches(&mut q, &mut second, &after, most - stop);
        assert!(rest == wanted[stop..], "{case:?} stopped after {stop} batches");
        assert_eq!(
            before.runs.get() + after.runs.get(),
            whole.runs.get(),
            "the model ran again on what it had seen"
        );
    }
}

#[test]
fn tokens_that_count_leave_in_order_without_a_buffer() {
    let (dir, mut q) = (texts(), queue());
    let case = Case::plain();
    let all = batches(&mut q, &mut case.stream(dir.path()), &Synthetic::default(), 1000);
    assert!(all.iter().rev().skip(1).all(|b| b.tokens.len() == 16));
    assert!(all.iter().all(|b| b.mask.iter().all(|&m| m == 1) && !b.tokens.contains(&1)));
    check(&case, 1000, 0..);
}

#[test]
fn a_shuffled_stream_stopped_at_any_batch_goes_on_bit_for_bit() {
    check(&Case { buffer_size: Some(100), ..Case::plain() }, 1000, 0..);
}

#[test]
fn whole_contexts_keep_their_padding_and_mask() {
    let case = Case { target: Target::Activations2d, batch_size: 4, ..Case::plain() };
    let (dir, mut q) = (texts(), queue());
    let all = batches(&mut q, &mut case.stream(dir.path()), &Synthetic::default(), 1000);
    assert_eq!(all[0].contexts, Some((4, 8)));
    assert_eq!(all[0].acts[1].len(), 4 * 8 * width(1));
    assert!(all.iter().any(|b| b.n_valid < b.tokens.len()));
    check(&case, 1000, 0..);
    check(&Case { buffer_size: Some(11), ..case }, 1000, 0..);
}

#[test]
fn tokens_alone_need_no_model() {
    let case = Case { target: Target::Tokens, batch_size: 5, ..Case::plain() };
    let (dir, mut q) = (texts(), queue());
    let model = Synthetic::default();
    let all = batches(&mut q, &mut case.stream(dir.path()), &model, 1000);
    assert_eq!((model.runs.get(), all[0].contexts, all[0].acts.len()), (0, Some((5, 8)), 0));
    check(&case, 1000, 0..);
}

#[test]
fn any_settings_give_the_rows_of_the_rules_and_resume_exactly() {
    for n in 0..60 {
        let mut draw = {
            let mut i = 0;
            move |most: usize| {
                i += 1;
                (random::unit(n, random::Use::Shuffle, i) * most as f64) as usize
            }
        };
        let mut case = Case::plain();
        case.target =
            [Target::Activations1d, Target::Activations1d, Target::Activations2d, Target::Tokens][draw(4)];
        case.policy.overflow = [Overflow::Truncate, Overflow::Split, Overflow::Pack][draw(3)];
        case.policy.context_size = Some(2 + draw(12));
        if case.target == Target::Activations1d && draw(4) == 0 {
            (case.policy.context_size, case.policy.max_length) = (None, 3 + draw(20));
        }
        case.policy.prepend_bos = draw(2) == 0;
        case.policy.mask_first_position = draw(3) == 0;
        case.policy.ignore_token_ids = (0..draw(4)).map(|_| b'b' as u32 + draw(5) as u32).collect();
        case.hooks = 1 + draw(3);
        case.batch_size = 1 + draw(40);
        case.buffer_size = (draw(4) > 0).then(|| 1 + draw(120));
        case.model_batch_size = 1 + draw(6);
        let source = |_| {
            let weight = 0.1 + draw(5) as f64;
            let order = Order { repeat: draw(4) == 0, shuffle_seed: (draw(2) == 0).then_some(n) };
            (weight, order)
        };
        case.sources = (0..1 + n as usize % 3).map(source).collect();
        case.seed = draw(1000) as u64;
        let step = 1 + draw(4);
        check(&case, 24, (draw(3)..).step_by(step));
    }
}

#[test]
fn model_batches_that_are_run_ahead_change_nothing_wherever_the_stream_is_taken_up() {
    let shuffled = Case { buffer_size: Some(40), ..Case::plain() };
    let contexts = Case { target: Target::Activations2d, batch_size: 4, ..Case::plain() };
    let tokens = Case { target: Target::Tokens, batch_size: 5, ..Case::plain() };
    for case in [Case::plain(), shuffled, contexts, tokens] {
        let (dir, mut q) = (texts(), queue());
        let wanted = expected(&case, dir.path(), 1000);
        let file = dir.path().join("state.safetensors");
        for at_once in [2, 3, 7] {
            let ahead = || Synthetic { at_once, ..Default::default() };
            for stop in 0..wanted.len() {
                let mut first = case.stream(dir.path());
                let got = batches(&mut q, &mut first, &ahead(), stop);
                assert!(got == wanted[..stop], "{case:?}, {at_once} at once, up to {stop}");
                first.save_state(&mut q, &file).unwrap();
                // By as many at once, or by one after the other.
                for model in [ahead(), Synthetic::default()] {
                    let mut second = case.stream(dir.path());
                    second.load_state(&mut q, &file).unwrap();
                    assert_eq!(second.cursor(), first.cursor());
                    let rest = batches(&mut q, &mut second, &model, 1000);
                    assert!(rest == wanted[stop..], "{case:?}, {at_once} at once, from {stop}");
                }
            }
        }
    }
}

#[test]
fn the_buffer_needs_no_more_memory_than_planned() {
    for buffer_size in [None, Some(10), Some(100)] {
        let case = Case { buffer_size, ..Case::plain() };
        let (dir, mut q) = (texts(), queue());
        let mut stream = case.stream(dir.path());
        batches(&mut q, &mut stream, &Synthetic::default(), 1000);
        let planned =
            ActivationStream::buffer_bytes(&case.settings(), &case.policy, 3, &[width(0), width(1)]).unwrap();
        assert_eq!(stream.held_bytes(), planned);
    }
}

#[test]
fn progress_tells_how_far_and_how_much() {
    let (dir, mut q) = (texts(), queue());
    let case =
        Case { policy: TokenPolicy { overflow: Overflow::Split, ..Case::plain().policy }, ..Case::plain() };
    let mut stream = case.stream(dir.path());
    assert_eq!(stream.progress().estimated_total, None);
    let model = Synthetic::default();
    batches(&mut q, &mut stream, &model, 10);
    let part = stream.progress();
    assert_eq!((part.batches, part.emitted), (10, 160));
    batches(&mut q, &mut stream, &model, 1000);
    let whole = stream.progress();
    assert_eq!((whole.share, whole.estimated_total), (Some(1.0), Some(whole.emitted)));
    let estimate = part.estimated_total.unwrap() as f64 / whole.emitted as f64;
    assert!((0.6..1.6).contains(&estimate), "{estimate}");
}

#[test]
fn data_in_which_nothing_counts_is_an_error_and_no_endless_loop() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0.txt"), "bbb").unwrap();
    let mut case = Case { sources: vec![(1.0, Order { repeat: true, shuffle_seed: None })], ..Case::plain() };
    case.policy.ignore_token_ids = vec![u32::from(b'b')];
    let e = case.stream(dir.path()).next_batch(&mut queue(), &Synthetic::default()).unwrap_err();
    assert!(e.to_string().contains("ignore_token_ids"), "{e}");
}

#[test]
fn a_model_that_gives_too_few_rows_is_refused() {
    struct Short;
    impl Producer for Short {
        fn activations(&self, q: &mut Queue, _: &[String], t: &TokenBatch) -> Result<Vec<Tensor>> {
            Ok(vec![q.zeros(t.ids.len() - 1, 4, lm_saes_runtime::DType::F32)?])
        }
    }
    let dir = texts();
    let case = Case { hooks: 1, ..Case::plain() };
    let e = case.stream(dir.path()).next_batch(&mut queue(), &Short).unwrap_err().to_string();
    assert!(e.contains("blocks.0.hook_resid_post") && e.contains("24 tokens"), "{e}");
}

#[test]
fn a_state_of_other_settings_or_a_damaged_one_is_refused() {
    let (dir, mut q) = (texts(), queue());
    let file = dir.path().join("state.safetensors");
    let case = Case { buffer_size: Some(100), ..Case::plain() };
    let mut stream = case.stream(dir.path());
    batches(&mut q, &mut stream, &Synthetic::default(), 3);
    stream.save_state(&mut q, &file).unwrap();
    let mut message = |case: &Case| {
        let mut other = case.stream(dir.path());
        let e = other.load_state(&mut q, &file).unwrap_err().to_string();
        assert_eq!(other.cursor(), case.stream(dir.path()).cursor(), "a refused state must change nothing");
        e
    };
    assert!(message(&Case { hooks: 1, ..case.clone() }).contains("hook points"));
    assert!(message(&Case { target: Target::Activations2d, ..case.clone() }).contains("target"));
    let mut other = case.clone();
    other.policy.overflow = Overflow::Pack;
    assert!(message(&other).contains("token policy"));
    assert!(
        message(&Case { sources: vec![(1.0, Order::default())], ..case.clone() }).contains("sources 0, 1")
    );

    let bytes = fs::read(&file).unwrap();
    for cut in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..cut]).unwrap();
        assert!(message(&case).contains("state.safetensors"), "cut at {cut}");
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let dir = texts();
    let message = |case: Case| {
        let tokens = case.tokens(dir.path());
        ActivationStream::new(case.settings(), tokens).err().unwrap().to_string()
    };
    assert!(message(Case { batch_size: 0, ..Case::plain() }).contains("batch_size"));
    assert!(message(Case { buffer_size: Some(0), ..Case::plain() }).contains("buffer_size"));
    assert!(message(Case { hooks: 0, ..Case::plain() }).contains("hook_points"));
    let mut twice = Case::plain().settings();
    twice.hook_points[1] = twice.hook_points[0].clone();
    let e = ActivationStream::new(twice, Case::plain().tokens(dir.path())).err().unwrap().to_string();
    assert!(e.contains("blocks.0.hook_resid_post twice"), "{e}");
    let policy = TokenPolicy { context_size: None, ..Case::plain().policy };
    assert!(
        message(Case { policy, target: Target::Activations2d, ..Case::plain() }).contains("context_size")
    );
}
