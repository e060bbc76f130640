import unittest

from slugs import slug


class Slug(unittest.TestCase):
    def test_words_are_joined_by_dashes(self):
        self.assertEqual(slug("Hello, World!"), "hello-world")

    def test_accents_are_dropped(self):
        self.assertEqual(slug("Crème Brûlée"), "creme-brulee")

    def test_no_dash_at_the_ends(self):
        self.assertEqual(slug("  (draft) notes  "), "draft-notes")

    def test_nothing_left_is_refused(self):
        with self.assertRaises(ValueError):
            slug("!!!")
