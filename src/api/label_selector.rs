//! Labels, and Kubernetes' selectors of them (`metav1.LabelSelector`).

use std::collections::BTreeMap;

use smol_str::SmolStr;

/// Labels or annotations, sorted so that equal sets compare and print equally.
pub type Labels = BTreeMap<SmolStr, SmolStr>;

/// A selector of which every part must hold. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// `matchLabels`: these labels must have these values.
    pub labels: Labels,
    /// `matchExpressions`
    pub expressions: Vec<LabelExpression>,
}

/// `matchExpressions[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelExpression {
    /// `key`
    pub key: SmolStr,
    /// `operator`
    pub operator: LabelOperator,
    /// `values`, for `In` and `NotIn` only.
    pub values: Vec<SmolStr>,
}

/// `matchExpressions[].operator`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelOperator {
    /// The label exists and has one of the values.
    #[default]
    In,
    /// The label does not exist, or has none of the values.
    NotIn,
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

/// Returns whether every label of the selector is there; an empty selector selects all. (Istio's selectors are plain labels.)
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

impl LabelSelector {
    /// Returns whether an object with these labels is selected.
    pub fn selects(&self, labels: &Labels) -> bool {
        selects(&self.labels, labels) && self.expressions.iter().all(|expression| expression.holds(labels))
    }
}

impl LabelExpression {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => listed,
            LabelOperator::NotIn => !listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_expressions_must_all_hold() {
        let labels = Labels::from([("team".into(), "a".into()), ("mesh".into(), "".into())]);
        let expression = |key: &str, operator, values: &[&str]| LabelSelector {
            labels: Labels::from([("team".into(), "a".into())]),
            expressions: vec![LabelExpression { key: key.into(), operator, values: values.iter().copied().map(Into::into).collect() }],
        };
        assert!(LabelSelector::default().selects(&Labels::new()));
        for (key, operator, values, selected) in [
            ("team", LabelOperator::In, &["a", "b"][..], true),
            ("team", LabelOperator::NotIn, &["a"], false),
            ("other", LabelOperator::NotIn, &["a"], true),
            ("mesh", LabelOperator::Exists, &[], true),
            ("mesh", LabelOperator::DoesNotExist, &[], false),
        ] {
            assert_eq!(expression(key, operator, values).selects(&labels), selected, "{key} {operator:?}");
        }
        assert!(!expression("mesh", LabelOperator::Exists, &[]).selects(&Labels::from([("mesh".into(), "".into())])));
    }
}
