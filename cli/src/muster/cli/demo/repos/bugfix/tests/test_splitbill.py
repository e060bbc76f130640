import unittest

from splitbill import shares


class Shares(unittest.TestCase):
    def test_an_even_bill_is_split_evenly(self):
        self.assertEqual(shares(900, 3), [300, 300, 300])

    def test_no_cent_is_lost(self):
        for total in range(200):
            for people in range(1, 8):
                self.assertEqual(sum(shares(total, people)), total)

    def test_the_first_pay_the_odd_cents(self):
        self.assertEqual(shares(1000, 3), [334, 333, 333])

    def test_somebody_has_to_pay(self):
        with self.assertRaises(ValueError):
            shares(1000, 0)
