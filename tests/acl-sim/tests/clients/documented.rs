//! The operators' documented error conditions, operator by operator: a null operand is 161001, an element type that the page does not
//! list 161002, a chip that it does not list 561003. What the pages list is in `documented.txt`, written apart from the simulator.

use crate::{
    acl::{Acl, P, Tensor},
    call, clients,
};

/// One operator.
struct Page {
    name: &'static str,
    arguments: Vec<Argument>,
    chips: Vec<&'static str>,
}

struct Argument {
    kind: char,
    name: &'static str,
    /// Element types the page lists; none where it lists none.
    listed: Vec<i32>,
    /// One that works.
    plain: i32,
}

/// ACL's numbers of the types that the pages name and that a public header has.
const TYPES: [(&str, i32); 16] = [
    ("f32", 0),
    ("f16", 1),
    ("i8", 2),
    ("i32", 3),
    ("u8", 4),
    ("i16", 6),
    ("u16", 7),
    ("u32", 8),
    ("i64", 9),
    ("u64", 10),
    ("f64", 11),
    ("bool", 12),
    ("c64", 16),
    ("c128", 17),
    ("bf16", 27),
    ("c32", 33),
];

fn pages() -> Vec<Page> {
    let lines = include_str!("documented.txt").lines().filter(|l| !l.starts_with('#'));
    let page = |line: &'static str| {
        let mut parts = line.split(" | ");
        let name = parts.next().expect("a name");
        let mut rest: Vec<&str> = parts.collect();
        let chips = rest.pop().and_then(|c| c.strip_prefix("on ")).expect("chips").split(' ').collect();
        let argument = |text: &&'static str| {
            let mut words = text.split(' ');
            let kind = words.next().and_then(|k| k.chars().next()).expect("a kind");
            let name = words.next().expect("an argument's name");
            let types = words.next().unwrap_or_default();
            let number = |t: &str| TYPES.iter().find(|(n, _)| *n == t).map(|(_, v)| *v);
            let listed: Vec<i32> = types.split(',').filter_map(number).collect();
            // f32 wherever it is listed: complex numbers may be too, which the simulator does not hold.
            let first = if listed.contains(&0) { None } else { listed.first().copied() };
            let plain = types.strip_prefix('~').and_then(number).or(first).unwrap_or(0);
            Argument { kind, name, listed, plain }
        };
        Page { name, arguments: rest.iter().map(argument).collect(), chips }
    };
    lines.map(page).collect()
}

/// Operands for any operator: tensors of [2, 2], ones, lists of one 0.
struct Operands<'a> {
    acl: &'a Acl,
    memory: usize,
    one: P,
    list: P,
}

impl<'a> Operands<'a> {
    fn new(acl: &'a Acl) -> Self {
        acl.init();
        Self { acl, memory: acl.alloc(4096), one: acl.scalar(1.0), list: acl.ints(&[0]) }
    }

    /// Phase 1 of an operator, with one of its tensors of this type, or one of its operands null. An executor that comes of it is
    /// destroyed.
    fn ask(&self, page: &Page, change: Option<(usize, Option<i32>)>) -> i32 {
        let mut tensors = Vec::new();
        let mut words = Vec::new();
        for (i, Argument { kind, plain, .. }) in page.arguments.iter().enumerate() {
            let changed = change.filter(|(which, _)| *which == i).map(|(_, to)| to);
            let word = match (changed, kind) {
                (Some(None), _) => 0,
                (_, 'T') => {
                    let dtype = changed.flatten().unwrap_or(*plain);
                    tensors.push(Tensor::new(self.acl, self.memory, &[2, 2], dtype, 0, 4));
                    tensors.last().map_or(0, |t| t.0 as usize)
                }
                (_, 'S') => self.one as usize,
                (_, 'I') => self.list as usize,
                (_, 'd') => continue,
                _ => 0,
            };
            words.push(word);
        }
        let (mut size, mut executor) = (0u64, self.acl.null());
        words.extend([(&raw mut size).expose_provenance(), (&raw mut executor).expose_provenance()]);
        words.resize(16, 0);
        type Any = unsafe extern "C" fn(
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            f64,
        ) -> i32;
        // SAFETY: every argument is a pointer or an integer, each passed in a word of its own in this order whatever its width, and at most
        // one is a double, which is passed apart from them; what is beyond an operator's arguments it does not look at.
        let code = unsafe {
            let f = self.acl.symbol::<Any>(&format!("aclnn{}GetWorkspaceSize", page.name));
            let w = |i: usize| words[i];
            f(
                w(0),
                w(1),
                w(2),
                w(3),
                w(4),
                w(5),
                w(6),
                w(7),
                w(8),
                w(9),
                w(10),
                w(11),
                w(12),
                w(13),
                w(14),
                w(15),
                1e-5,
            )
        };
        if code == 0 {
            assert_eq!(call!(self.acl, aclDestroyAclOpExecutor(executor => P)), 0);
        }
        code
    }

    fn finish(self) {
        assert_eq!(call!(self.acl, aclDestroyScalar(self.one => P)), 0);
        assert_eq!(call!(self.acl, aclDestroyIntArray(self.list => P)), 0);
        assert_eq!(self.acl.free(self.memory), 0);
        self.acl.finish();
    }
}

/// Operands that the pages let be null.
fn may_be_null(page: &Page, argument: &str) -> bool {
    let optional = ["sorter", "perSampleWeights", "clipValueMin", "clipValueMax"];
    let all_dims = ["Amax", "Any", "ReduceSum"].contains(&page.name) && argument.starts_with("dim");
    argument.ends_with("Optional") || optional.contains(&argument) || all_dims
}

clients! {
    gives_types_that_no_page_lists(acl) {
        let operands = Operands::new(acl);
        let (mut asked, mut wrong) = (0, Vec::new());
        for page in pages() {
            for (i, argument) in page.arguments.iter().enumerate().filter(|(_, a)| !a.listed.is_empty()) {
                for (name, dtype) in TYPES.iter().filter(|(_, t)| !argument.listed.contains(t)) {
                    let code = operands.ask(&page, Some((i, Some(*dtype))));
                    asked += 1;
                    // Shapes are refused with the same code.
                    let said = acl.message();
                    if code != 161_002 || !said.contains("not implemented for") {
                        wrong.push(format!("aclnn{} takes {} of {name} ({code}: {said})", page.name, argument.name));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
        println!("{asked} undocumented types are refused");
        operands.finish();
    }
    gives_nothing(acl) {
        let operands = Operands::new(acl);
        let (mut asked, mut wrong) = (0, Vec::new());
        for page in pages() {
            for (i, argument) in page.arguments.iter().enumerate() {
                if !"TSI".contains(argument.kind) || may_be_null(&page, argument.name) {
                    continue;
                }
                let code = operands.ask(&page, Some((i, None)));
                asked += 1;
                if code != 161_001 || !acl.message().contains("is null") {
                    wrong.push(format!("aclnn{} takes no {} ({code})", page.name, argument.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
        println!("{asked} null operands are refused");
        operands.finish();
    }
    asks_for_kernels(acl) {
        let operands = Operands::new(acl);
        let chip = std::env::var("ACL_SIM").expect("settings name the chip");
        let family = match chip.split('=').next_back() {
            Some("Ascend910B2") => "910b",
            Some("Ascend910_9382") => "A3",
            Some("Ascend950PR_9589") => "950",
            Some("Ascend910A") => "910",
            _ => "310p",
        };
        for page in pages() {
            let has = operands.ask(&page, None) != 561_003;
            assert_eq!(has, page.chips.contains(&family), "aclnn{} on {family}: {}", page.name, acl.message());
        }
        operands.finish();
    }
}

#[test]
fn every_operators_documented_error_conditions_are_met() {
    for name in ["gives_types_that_no_page_lists", "gives_nothing"] {
        let output = crate::run(name, "");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
        print!(
            "{}",
            said.lines().filter(|l| l.contains("are refused")).map(|l| format!("{l}\n")).collect::<String>()
        );
    }
}

#[test]
fn operators_have_kernels_on_the_chips_their_pages_list() {
    for soc in ["Ascend910B2", "Ascend910_9382", "Ascend950PR_9589", "Ascend910A", "Ascend310P3"] {
        let output = crate::run("asks_for_kernels", &format!("soc={soc}"));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{soc}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
}
