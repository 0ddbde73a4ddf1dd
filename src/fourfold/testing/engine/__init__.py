"""What every engine must do (`EngineKit`), and an engine in memory that does it on an invented clock."""

from fourfold.testing.engine.fake import Course as Course
from fourfold.testing.engine.fake import FakeEngine as FakeEngine
from fourfold.testing.engine.fake import course_command as course_command
from fourfold.testing.engine.fake import course_of as course_of
from fourfold.testing.engine.kit import EngineKit as EngineKit
from fourfold.testing.engine.table import capability_table as capability_table

__all__ = ["Course", "EngineKit", "FakeEngine", "capability_table", "course_command", "course_of"]
