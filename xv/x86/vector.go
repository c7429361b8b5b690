package x86

var vex0F = table([]row{
	{0x10, 0x6f, form}, {0x70, 0x73, form | ib}, {0x74, 0x76, form}, {0x77, 0x77, plain}, {0x78, 0xc1, form},
	{0xc2, 0xc2, form | ib}, {0xc4, 0xc6, form | ib}, {0xd0, 0xff, form},
})
var vex0F38 = table([]row{{0x00, 0xff, form}})
var vex0F3A = table([]row{{0x00, 0xff, form | ib}})

var vexMaps = [8]*[256]entry{1: &vex0F, 2: &vex0F38, 3: &vex0F3A}
var evexMaps = [8]*[256]entry{1: &vex0F, 2: &vex0F38, 3: &vex0F3A, 5: &vex0F38, 6: &vex0F38}

var xop8 = table([]row{{0x00, 0xff, form | ib}})
var xop9 = table([]row{{0x00, 0xff, form}})
var xop10 = table([]row{{0x00, 0xff, form | id}})

var xopMaps = [3]*[256]entry{&xop8, &xop9, &xop10}
