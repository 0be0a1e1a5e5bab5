//! Compact bytes for what is stored per feature and per context: variable-length integers, f32 as they are, positions as
//! differences. Every blob begins with its form, so that a later form can be told apart.

use super::{Context, FeatureAnalysis, Histogram, Logits, Related, Sample, Sampling, TokenLogit};

/// The form written.
const FORM: u64 = 1;

/// A blob that does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Bytes being written.
#[derive(Default)]
pub(crate) struct Out(Vec<u8>);

impl Out {
    pub fn new() -> Self {
        let mut out = Self::default();
        out.int(FORM);
        out
    }
    pub fn int(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }
    pub fn float(&mut self, v: f32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    pub fn text(&mut self, s: &str) {
        self.int(s.len() as u64);
        self.0.extend_from_slice(s.as_bytes());
    }
    pub fn list<T>(&mut self, items: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.int(items.len() as u64);
        items.iter().for_each(|item| put(self, item));
    }
    /// Hands what was written so far over to `w`.
    pub fn flush(&mut self, w: &mut dyn std::io::Write) -> std::io::Result<()> {
        w.write_all(&self.0)?;
        self.0.clear();
        Ok(())
    }
    fn floats(&mut self, items: &[f32]) {
        self.list(items, |o, v| o.float(*v));
    }
    fn related(&mut self, items: &[Related]) {
        self.list(items, |o, r| {
            o.int(r.feature.into());
            o.float(r.value);
        });
    }
}

/// Bytes being read.
pub(crate) struct In<'a>(&'a [u8]);

pub(crate) type Read<T> = Result<T, Damaged>;

impl<'a> In<'a> {
    pub fn new(bytes: &'a [u8]) -> Read<Self> {
        let mut it = Self(bytes);
        if it.int()? == FORM { Ok(it) } else { Err(Damaged) }
    }
    pub fn int(&mut self) -> Read<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Damaged)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damaged)
    }
    pub fn small(&mut self) -> Read<u32> {
        self.int()?.try_into().map_err(|_| Damaged)
    }
    fn bytes(&mut self, n: usize) -> Read<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Damaged)?;
        self.0 = rest;
        Ok(head)
    }
    pub fn float(&mut self) -> Read<f32> {
        let bytes = self.bytes(4)?;
        Ok(f32::from_le_bytes(bytes.try_into().map_err(|_| Damaged)?))
    }
    pub fn text(&mut self) -> Read<String> {
        let n = self.int()? as usize;
        String::from_utf8(self.bytes(n)?.to_vec()).map_err(|_| Damaged)
    }
    pub fn list<T>(&mut self, mut take: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let n = self.int()? as usize;
        // Every item takes at least a byte, so a damaged length cannot ask for much memory.
        if n > self.0.len() {
            return Err(Damaged);
        }
        (0..n).map(|_| take(self)).collect()
    }
    fn floats(&mut self) -> Read<Vec<f32>> {
        self.list(Self::float)
    }
    fn related(&mut self) -> Read<Vec<Related>> {
        self.list(|i| Ok(Related { feature: i.small()?, value: i.float()? }))
    }
    pub fn end<T>(self, value: T) -> Read<T> {
        if self.0.is_empty() { Ok(value) } else { Err(Damaged) }
    }
}

/// Everything of a feature but what lists are sorted by and its preview.
pub fn feature(f: &FeatureAnalysis) -> Vec<u8> {
    let mut out = Out::new();
    out.float(f.mean_act);
    out.int(f.n_contexts);
    out.float(f.histogram.width);
    out.list(&f.histogram.counts, |o, n| o.int((*n).into()));
    out.list(&f.samplings, |o, s| {
        o.text(&s.name);
        o.list(&s.samples, sample);
    });
    out.related(&f.coactivations);
    out.related(&f.neighbours);
    out.floats(&f.decoder_norms);
    out.floats(&f.decoder_similarities);
    out.floats(&f.decoder_inner_products);
    out.list(&f.peak_tokens, |o, t| o.text(t));
    let logits: Vec<&Logits> = f.logits.iter().collect();
    out.list(&logits, |o, l| {
        for side in [&l.top_positive, &l.top_negative] {
            o.list(side, |o, t| {
                o.text(&t.token);
                o.float(t.logit);
            });
        }
    });
    out.0
}

fn sample(out: &mut Out, s: &Sample) {
    out.int(s.context.into());
    let mut last = 0;
    out.list(&s.acts, |o, &(at, v)| {
        o.int(at.wrapping_sub(last).into());
        o.float(v);
        last = at;
    });
    out.list(&s.z_pattern, |o, &(q, k, v)| {
        o.int(q.into());
        o.int(k.into());
        o.float(v);
    });
}

/// Completes `f`, which has what the blob leaves out.
pub fn read_feature(bytes: &[u8], mut f: FeatureAnalysis) -> Read<FeatureAnalysis> {
    let mut i = In::new(bytes)?;
    f.mean_act = i.float()?;
    f.n_contexts = i.int()?;
    f.histogram = Histogram { width: i.float()?, counts: i.list(In::small)? };
    f.samplings = i.list(|i| Ok(Sampling { name: i.text()?, samples: i.list(read_sample)? }))?;
    f.coactivations = i.related()?;
    f.neighbours = i.related()?;
    f.decoder_norms = i.floats()?;
    f.decoder_similarities = i.floats()?;
    f.decoder_inner_products = i.floats()?;
    f.peak_tokens = i.list(In::text)?;
    let side = |i: &mut In<'_>| i.list(|i| Ok(TokenLogit { token: i.text()?, logit: i.float()? }));
    let mut logits = i.list(|i| Ok(Logits { top_positive: side(i)?, top_negative: side(i)? }))?;
    f.logits = logits.pop();
    i.end(f)
}

fn read_sample(i: &mut In<'_>) -> Read<Sample> {
    let context = i.small()?;
    let mut last = 0u32;
    let acts = i.list(|i| {
        last = last.wrapping_add(i.small()?);
        Ok((last, i.float()?))
    })?;
    let z_pattern = i.list(|i| Ok((i.small()?, i.small()?, i.float()?)))?;
    Ok(Sample { context, acts, z_pattern })
}

/// Origin, ids and texts of a context.
pub fn context(c: &Context) -> Vec<u8> {
    let mut out = Out::new();
    out.text(&c.origin);
    out.list(&c.ids, |o, id| o.int((*id).into()));
    out.list(&c.texts, |o, t| o.text(t));
    out.0
}

/// The context with this number.
pub fn read_context(bytes: &[u8], id: u32) -> Read<Context> {
    let mut i = In::new(bytes)?;
    let c = Context { id, origin: i.text()?, ids: i.list(In::small)?, texts: i.list(In::text)? };
    i.end(c)
}

/// Texts with a number each.
pub fn preview(p: &[(String, f32)]) -> Vec<u8> {
    let mut out = Out::new();
    out.list(p, |o, (text, v)| {
        o.text(text);
        o.float(*v);
    });
    out.0
}

/// See [`preview`].
pub fn read_preview(bytes: &[u8]) -> Read<Vec<(String, f32)>> {
    let mut i = In::new(bytes)?;
    let p = i.list(|i| Ok((i.text()?, i.float()?)))?;
    i.end(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> FeatureAnalysis {
        let sample = |context| Sample {
            context,
            acts: vec![(0, 1.5), (700, -2.0), (701, 3.0)],
            z_pattern: vec![(5, 3, 0.25)],
        };
        FeatureAnalysis {
            mean_act: 1.25,
            n_contexts: 300,
            histogram: Histogram { width: 0.5, counts: vec![0, 7, 100_000] },
            samplings: vec![Sampling {
                name: "top_activations".into(),
                samples: vec![sample(9), sample(70_000)],
            }],
            coactivations: vec![Related { feature: 3, value: 0.5 }],
            neighbours: vec![Related { feature: 65_535, value: -0.5 }],
            decoder_norms: vec![1.0, 2.0],
            decoder_similarities: vec![1.0, 0.5, 0.5, 1.0],
            decoder_inner_products: vec![2.0; 4],
            peak_tokens: vec![" Brot".into(), "\n".into()],
            logits: Some(Logits {
                top_positive: vec![TokenLogit { token: " käse".into(), logit: 3.0 }],
                top_negative: vec![],
            }),
            ..FeatureAnalysis::default()
        }
    }

    #[test]
    fn a_feature_comes_back_as_it_was() {
        let f = example();
        assert_eq!(read_feature(&feature(&f), FeatureAnalysis::default()), Ok(f));
        let empty = FeatureAnalysis::default();
        assert_eq!(read_feature(&feature(&empty), FeatureAnalysis::default()), Ok(empty));
    }

    #[test]
    fn a_context_comes_back_as_it_was() {
        let c = Context {
            id: 4,
            origin: "prose:17".into(),
            ids: vec![0, 50_000],
            texts: vec!["a".into(), "é\n".into()],
        };
        assert_eq!(read_context(&context(&c), 4), Ok(c));
    }

    #[test]
    fn every_shortened_blob_is_refused() {
        let blob = feature(&example());
        for n in 0..blob.len() {
            assert_eq!(read_feature(&blob[..n], FeatureAnalysis::default()), Err(Damaged), "{n} bytes");
        }
    }
}
