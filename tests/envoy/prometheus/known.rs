//! What an expression of PromQL gives when Prometheus knows just what the load generator knows: exact counts, and of durations and
//! sizes within which bounds they lie.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use harness::prometheus::Labels;
use promql_parser::parser::{BinaryExpr, Call, Expr, LabelModifier, VectorSelector};

use super::truth::{Rate, Truth};

/// A value that is known exactly, or within bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Known {
    Exactly(f64),
    Within(f64, f64),
}

/// A vector: values by their labels.
pub(super) type Vector = BTreeMap<Labels, Known>;

impl Known {
    /// Returns whether a value agrees; exact ones as far as numbers are rounded.
    pub(super) fn agrees(self, value: f64) -> bool {
        match self {
            // The dashboards round to 0.01.
            Self::Exactly(known) => (known - value).abs() <= 0.0101_f64.max(known.abs() * 1e-6),
            Self::Within(low, high) => (low..=high).contains(&value),
        }
    }

    fn map(self, change: impl Fn(f64) -> f64) -> Self {
        match self {
            Self::Exactly(value) => Self::Exactly(change(value)),
            Self::Within(low, high) => Self::Within(change(low), change(high)),
        }
    }

    /// Adds up counts; of bounds, takes those that hold for both.
    fn and(self, other: Self) -> Result<Self> {
        match (self, other) {
            (Self::Exactly(one), Self::Exactly(other)) => Ok(Self::Exactly(one + other)),
            (Self::Within(low, high), Self::Within(lower, higher)) => Ok(Self::Within(low.min(lower), high.max(higher))),
            _ => bail!("a count and bounds do not add up"),
        }
    }
}

/// Evaluates what the queries of this test consist of.
pub(super) fn evaluate(expression: &Expr, truth: &Truth) -> Result<Vector> {
    match expression {
        Expr::Paren(paren) => evaluate(&paren.expr, truth),
        Expr::VectorSelector(selector) => truth.values(name(selector)?, &selector.matchers, Rate::None),
        Expr::Aggregate(aggregate) => {
            ensure!(aggregate.op.to_string() == "sum", "{expression} is no sum");
            let by = match &aggregate.modifier {
                None => Vec::new(),
                Some(LabelModifier::Include(labels)) => labels.labels.clone(),
                Some(LabelModifier::Exclude(_)) => bail!("{expression} says without what"),
            };
            sum(evaluate(&aggregate.expr, truth)?, &by)
        }
        Expr::Call(call) => function(call, truth),
        Expr::Binary(binary) => operation(binary, truth),
        other => bail!("{other}: not among what queries consist of"),
    }
}

fn name(selector: &VectorSelector) -> Result<&str> {
    selector.name.as_deref().context("no name of a metric")
}

fn sum(vector: Vector, by: &[String]) -> Result<Vector> {
    let mut sums = Vector::new();
    for (labels, value) in vector {
        let kept = labels.into_iter().filter(|(label, value)| by.contains(label) && !value.is_empty()).collect();
        let sum = match sums.get(&kept) {
            Some(sum) => value.and(*sum)?,
            None => value,
        };
        sums.insert(kept, sum);
    }
    Ok(sums)
}

fn function(call: &Call, truth: &Truth) -> Result<Vector> {
    let argument = |at: usize| call.args.args.get(at).map(|argument| &**argument).context("an argument is missing");
    match call.func.name {
        name @ ("rate" | "irate") => {
            let Expr::MatrixSelector(selector) = argument(0)? else { bail!("{name} of no range") };
            let rate = if name == "rate" { Rate::OfWindow } else { Rate::OfLastTwo };
            truth.values(self::name(&selector.vs)?, &selector.vs.matchers, rate)
        }
        // How far a value may be off after it, `agrees` knows.
        "round" => evaluate(argument(0)?, truth),
        "histogram_quantile" => without_bounds(evaluate(argument(1)?, truth)?),
        "vector" => Ok([(Labels::new(), Known::Exactly(number(argument(0)?)?))].into()),
        "label_join" => {
            let texts = (1..call.args.args.len()).map(|at| text(argument(at)?)).collect::<Result<Vec<_>>>()?;
            let [into, between, from @ ..] = texts.as_slice() else { bail!("label_join of too little") };
            Ok(evaluate(argument(0)?, truth)?.into_iter().map(|(labels, value)| (joined(labels, into, between, from), value)).collect())
        }
        other => bail!("{other}: not among the functions that queries use"),
    }
}

/// Removes the label of buckets.
fn without_bounds(vector: Vector) -> Result<Vector> {
    let mut quantiles = Vector::new();
    for (mut labels, value) in vector {
        ensure!(labels.remove("le").is_some(), "a quantile of what is no histogram");
        quantiles.insert(labels, value);
    }
    Ok(quantiles)
}

fn joined(mut labels: Labels, into: &str, between: &str, from: &[String]) -> Labels {
    let parts: Vec<String> = from.iter().map(|label| labels.get(label).cloned().unwrap_or_default()).collect();
    labels.insert(into.to_owned(), parts.join(between));
    labels
}

fn operation(binary: &BinaryExpr, truth: &Truth) -> Result<Vector> {
    let left = evaluate(&binary.lhs, truth)?;
    let change: fn(f64, f64) -> f64 = match binary.op.to_string().as_str() {
        "or" => {
            let mut both = left;
            let on_nothing = binary.modifier.as_ref().is_some_and(|modifier| modifier.matching.is_some());
            if both.is_empty() || !on_nothing {
                for (labels, value) in evaluate(&binary.rhs, truth)? {
                    both.entry(labels).or_insert(value);
                }
            }
            return Ok(both);
        }
        "+" => |left, right| left + right,
        "/" => |left, right| left / right,
        "*" => |left, right| left * right,
        other => bail!("{other}: not among the operators that queries use"),
    };
    if let Ok(right) = number(&binary.rhs) {
        return Ok(left.into_iter().map(|(labels, value)| (labels, value.map(|value| change(value, right)))).collect());
    }
    let right = evaluate(&binary.rhs, truth)?;
    let pairs = left.into_iter().filter_map(|(labels, value)| Some((right.get(&labels).copied()?, labels, value)));
    pairs
        .map(|(right, labels, left)| match (left, right) {
            (Known::Exactly(left), Known::Exactly(right)) => Ok((labels, Known::Exactly(change(left, right)))),
            _ => bail!("bounds on both sides of an operator"),
        })
        .collect()
}

fn number(expression: &Expr) -> Result<f64> {
    match expression {
        Expr::NumberLiteral(literal) => Ok(literal.val),
        other => bail!("{other} is no number"),
    }
}

fn text(expression: &Expr) -> Result<String> {
    match expression {
        Expr::StringLiteral(literal) => Ok(literal.val.clone()),
        other => bail!("{other} is no text"),
    }
}
