"""Operations: what should be so on hosts, and the missing changes. One file each; they touch nothing themselves.

How changes are carried out stands in steps.py and script.py; plans and playbooks are elsewhere.
"""

from dogwatch.core.component import Registry
from dogwatch.fleet.operations.command import CommandOperation
from dogwatch.fleet.operations.directory import DirectoryOperation, LinkOperation
from dogwatch.fleet.operations.file import FileOperation
from dogwatch.fleet.operations.line import BlockOperation, LineOperation
from dogwatch.fleet.operations.operation import Operation
from dogwatch.fleet.operations.template import TemplateOperation

OPERATIONS: Registry[Operation] = Registry(
    "operation",
    FileOperation,
    TemplateOperation,
    LineOperation,
    BlockOperation,
    DirectoryOperation,
    LinkOperation,
    CommandOperation,
)
