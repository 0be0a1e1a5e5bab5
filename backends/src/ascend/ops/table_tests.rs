//! The table of operators against the ops there are, the operators there are, and the page that shows it.

use super::{LOWERINGS, operators};
use crate::ascend::{call::OPERATORS, soc::Family};
use lm_saes_runtime::Op;

#[test]
fn every_op_has_a_row_of_operators_that_exist() {
    for op in Op::NAMES {
        assert!(!operators(op).is_empty(), "{op} has no row");
    }
    for row in LOWERINGS {
        assert!(Op::NAMES.contains(&row.op), "{} is no op", row.op);
        for name in row.operators {
            assert!(OPERATORS.iter().any(|o| o.name == *name), "{}: {name} is not bound", row.op);
        }
    }
}

#[test]
fn every_operator_is_used_and_documented_for_the_second_generation() {
    for o in OPERATORS {
        assert!(LOWERINGS.iter().any(|r| r.operators.contains(&o.name)), "no op uses {}", o.name);
        assert_eq!(o.families & Family::A2.0, Family::A2.0, "{}", o.name);
        assert_eq!(o.families & Family::A3.0, Family::A3.0, "{}", o.name);
    }
}

#[test]
fn the_page_shows_this_table() {
    let page = include_str!("../../../README.md");
    let mut expected = String::new();
    for row in LOWERINGS {
        let names: Vec<_> = row.operators.iter().map(|n| n.trim_start_matches("aclnn")).collect();
        expected.push_str(&format!("| {} | {} |\n", row.op, names.join(" ")));
    }
    assert!(page.contains(&expected), "backends/README.md should have:\n{expected}");
}
