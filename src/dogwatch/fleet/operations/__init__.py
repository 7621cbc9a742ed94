"""Operations: what should be so on hosts, and the missing changes. One file each; they touch nothing themselves.

How changes are carried out stands in steps.py and carrying.py; plans and playbooks are elsewhere.
"""

from dogwatch.core.component import Registry
from dogwatch.fleet.operations.accounts import GroupOperation, UserOperation
from dogwatch.fleet.operations.archive import ArchiveOperation
from dogwatch.fleet.operations.command import CommandOperation
from dogwatch.fleet.operations.cron import CronOperation
from dogwatch.fleet.operations.directory import DirectoryOperation, LinkOperation
from dogwatch.fleet.operations.file import FileOperation
from dogwatch.fleet.operations.git import GitOperation
from dogwatch.fleet.operations.hosts import HostEntryOperation
from dogwatch.fleet.operations.key import KeyOperation
from dogwatch.fleet.operations.line import BlockOperation, LineOperation
from dogwatch.fleet.operations.mount import MountOperation
from dogwatch.fleet.operations.operation import Operation
from dogwatch.fleet.operations.package import PackageOperation
from dogwatch.fleet.operations.service import ServiceOperation
from dogwatch.fleet.operations.sshkey import AuthorizedKeyOperation
from dogwatch.fleet.operations.sysctl import SysctlOperation
from dogwatch.fleet.operations.template import TemplateOperation

OPERATIONS: Registry[Operation] = Registry(
    "operation",
    FileOperation,
    TemplateOperation,
    LineOperation,
    BlockOperation,
    KeyOperation,
    DirectoryOperation,
    LinkOperation,
    ArchiveOperation,
    GitOperation,
    PackageOperation,
    ServiceOperation,
    UserOperation,
    GroupOperation,
    AuthorizedKeyOperation,
    CronOperation,
    SysctlOperation,
    MountOperation,
    HostEntryOperation,
    CommandOperation,
)
