//! Reads label selectors. An invalid one is refused, since an empty one instead would select everything.

use super::fields::{Node, Read};
use crate::api::label_selector::{LabelExpression, LabelOperator, LabelSelector};

impl Read for LabelSelector {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { labels: fields.get("matchLabels"), expressions: fields.get("matchExpressions") })
    }
}

impl Read for LabelExpression {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let operators = [
            ("In", LabelOperator::In),
            ("NotIn", LabelOperator::NotIn),
            ("Exists", LabelOperator::Exists),
            ("DoesNotExist", LabelOperator::DoesNotExist),
        ];
        let operator = fields.with("operator", |node| node.one_of(&operators));
        let expression = Self { key: fields.get("key"), operator: operator.unwrap_or_default(), values: fields.get("values") };
        if !fields.has("operator") {
            fields.refuse("operator", "is missing: In, NotIn, Exists or DoesNotExist");
        }
        if expression.key.is_empty() {
            fields.refuse("key", "is missing");
        }
        fields.finish();
        Some(expression)
    }
}
