"""YAML that a user wrote, where whatever is wrong is one kind of error with its place; and YAML that beft writes."""

from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Makes the values of a list or mapping at once, so that one that holds itself is an error.

    A key that is given twice is an error, too.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            named = (key.tag, key.value)
            if named in lines:
                what = f"the key {key.value!r} is already given in line {lines[named]}: remove one of the two"
                raise yaml.composer.ComposerError(None, None, what, key.start_mark)
            lines[named] = key.start_mark.line + 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = True) -> Any:
        try:
            return super().construct_object(node, deep=True)
        except yaml.YAMLError:
            raise
        except Exception as error:  # whatever a value can raise that is not what it looks like, such as 2020-13-45
            what = f"this value cannot be read ({error})"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None


def parse_yaml(text: str) -> Any:
    """What a text says.

    Raises:
        ValueError: It is not valid; the message says where.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Dumper(yaml.SafeDumper):
    """Puts a text with U+0085 in double quotes, where it is escaped: as it is, it would be read as a line break."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


_Dumper.add_representer(str, _text_node)


def format_yaml(values: Any, *, width: int = 80) -> str:
    """Values as YAML that is read back as what they are, in their order.

    Args:
        width: Where lines are broken, about.
    """
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
    return text
