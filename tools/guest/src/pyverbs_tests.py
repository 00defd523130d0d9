# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the tests of the verbs library, and writes a line for each: verdict, name and reason, with tabs between.

python3 pyverbs_tests.py DIRECTORY DEVICE GID OUTPUT TIMES [NAME...], where DIRECTORY holds the package `tests`.
"""
import os
import signal
import sys
import unittest
from importlib.machinery import SourceFileLoader

LIMIT = 180  # seconds for a test

directory, device, gid, output, times = sys.argv[1:6]
names = sys.argv[6:]
package = os.path.join(directory, 'tests')
sys.path[:0] = [directory, package]
sys.argv = ['run_tests.py', '--dev', device, '--gid', gid]

from args_parser import parser  # noqa: E402


class Results(unittest.TestResult):
    def __init__(self, out):
        super().__init__()
        self.out = out

    def note(self, verdict, test, why=''):
        print(verdict, test.id(), ' '.join(str(why).split()), sep='\t', file=self.out, flush=True)

    def startTest(self, test):
        super().startTest(test)
        signal.alarm(LIMIT)

    def stopTest(self, test):
        signal.alarm(0)
        super().stopTest(test)

    def addSuccess(self, test):
        self.note('pass', test)

    def addSkip(self, test, reason):
        self.note('skip', test, reason)

    def addFailure(self, test, error):
        self.note('fail', test, error[1])

    def addError(self, test, error):
        self.note('fail', test, f'{error[0].__name__}: {error[1]}')

    def addExpectedFailure(self, test, error):
        self.note('pass', test)

    def addUnexpectedSuccess(self, test):
        self.note('fail', test, 'succeeds, but is expected to fail')

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.note('fail', test, f'{subtest}: {error[1]}')


def chosen(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from chosen(test)
        elif not names or test.id() in names:
            yield test


def late(_signal, _frame):
    raise TimeoutError(f'not done after {LIMIT} s')


signal.signal(signal.SIGALRM, late)
parser.parse_args()
tests = SourceFileLoader('tests', os.path.join(package, '__init__.py')).load_module()
with open(output, 'w') as out:
    results = Results(out)
    for _ in range(int(times)):
        unittest.TestSuite(chosen(unittest.defaultTestLoader.loadTestsFromModule(tests))).run(results)
    print('end', results.testsRun, '', sep='\t', file=out)
