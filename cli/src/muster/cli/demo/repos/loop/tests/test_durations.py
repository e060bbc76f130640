import unittest

from durations import seconds


class Seconds(unittest.TestCase):
    def test_one_unit(self):
        self.assertEqual(seconds("5m"), 300)

    def test_units_add_up(self):
        self.assertEqual(seconds("1h30m"), 5400)

    def test_numbers_may_be_long(self):
        self.assertEqual(seconds("120s"), 120)

    def test_words_are_no_duration(self):
        with self.assertRaises(ValueError):
            seconds("soon")
