"""YAML that a user wrote: whatever is wrong with it is one kind of error, which says where it is."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Makes the values of a list or mapping at once, so that one that holds itself is an error."""

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
