import pytest
import torch

from student_train.methods.base import Method
from student_train.methods.unidistill import UniDistill, UniDistillConfig
from tests.student_train.method_suite import CONTEXT, MethodSuite


class TestUniDistill(MethodSuite):
    def build(self) -> Method:
        return UniDistill(UniDistillConfig(temperature=1.0), CONTEXT)


class TestTransposed(MethodSuite):
    def build(self) -> Method:
        return UniDistill(UniDistillConfig(temperature=1.0, transpose_bug=True), CONTEXT)
